// Loaded into a process that a benchmark starts, before its program (`node --import`): tells what the process uses when asked,
// and ends it with the benchmark, whatever became of that.
process.on('message', (message) => {
  if (message?.ask !== 'usage') return;
  const { user, system } = process.cpuUsage();
  process.send?.({
    answer: 'usage',
    rssBytes: process.memoryUsage.rss(),
    rssBytesMax: process.resourceUsage().maxRSS * 1024,
    cpuMicroseconds: user + system,
  });
});
process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'));
// The channel alone is no reason to stay.
process.channel?.unref();
