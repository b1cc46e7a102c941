/** The oldest Node.js that this program and what it is made of run on, as package.json's `engines` has it. */
const oldest = [20, 19] as const;

/** What is wrong with this version of Node.js (`18.20.8`), and what to do; undefined where it is new enough. */
export function nodeProblem(version: string): string | undefined {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const isNewEnough = major > oldest[0] || (major === oldest[0] && minor >= oldest[1]);
  return isNewEnough
    ? undefined
    : `pgfetch needs Node.js ${oldest.join('.')} or newer (this is ${version}): https://nodejs.org/en/download`;
}
