// What libcurl makes of one reply, with the options that pg_net sets. Prints it as lines of hexadecimal fields, since names,
// values and texts may hold any byte. Needs the headers of libcurl to compile and its library to run.
//
//   oracle <url> <method> <body, or -> <redirects to follow> <time-out in ms>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { char *data; size_t length; } Body;
typedef struct { const char *data; size_t at; size_t length; } Upload;

static size_t upload(char *to, size_t size, size_t count, void *from) {
  Upload *rest = from;
  size_t left = rest->length - rest->at;
  size_t length = left < size * count ? left : size * count;
  memcpy(to, rest->data + rest->at, length);
  rest->at += length;
  return length;
}

// For a redirect that asks for the body once more.
static int rewind_upload(void *from, curl_off_t offset, int origin) {
  Upload *rest = from;
  if(origin != SEEK_SET || offset != 0) return CURL_SEEKFUNC_FAIL;
  rest->at = 0;
  return CURL_SEEKFUNC_OK;
}

static size_t collect(char *data, size_t size, size_t count, void *to) {
  Body *body = to;
  size_t length = size * count;
  body->data = realloc(body->data, body->length + length + 1);
  if(body->data == NULL) abort();
  memcpy(body->data + body->length, data, length);
  body->length += length;
  return length;
}

static void hex(const char *data, size_t length) {
  for(size_t i = 0; i < length; i++) printf("%02x", (unsigned char)data[i]);
}

static void field(const char *name, const char *text) {
  printf("%s ", name);
  hex(text, strlen(text));
  printf("\n");
}

int main(int argc, char **argv) {
  if(argc != 6) return 2;
  const char *method = argv[2];
  const char *sent = strcmp(argv[3], "-") == 0 ? NULL : argv[3];
  long redirects = atol(argv[4]);
  int is_put = strcmp(method, "PUT") == 0;
  Upload rest = { sent, 0, sent == NULL ? 0 : strlen(sent) };
  Body body = { NULL, 0 };
  long status = 0;
  const char *location = NULL;
  struct curl_header *header = NULL;
  CURL *curl = curl_easy_init();
  // The server would have to answer it.
  struct curl_slist *headers = curl_slist_append(NULL, "Expect:");
  curl_easy_setopt(curl, CURLOPT_URL, argv[1]);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "oracle");
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  if(strcmp(method, "HEAD") == 0) curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
  if(is_put) {
    curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(curl, CURLOPT_READFUNCTION, upload);
    curl_easy_setopt(curl, CURLOPT_READDATA, &rest);
    curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, rewind_upload);
    curl_easy_setopt(curl, CURLOPT_SEEKDATA, &rest);
    curl_easy_setopt(curl, CURLOPT_INFILESIZE, (long)rest.length);
  } else if(sent != NULL)
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, sent);
  if(!is_put && strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0 && strcmp(method, "POST") != 0)
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, collect);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &body);
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, atol(argv[5]));
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, redirects);
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
  CURLcode code = curl_easy_perform(curl);
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  curl_easy_getinfo(curl, CURLINFO_REDIRECT_URL, &location);
  field("version", curl_version_info(CURLVERSION_NOW)->version);
  printf("code %d\n", (int)code);
  field("error", code == CURLE_OK ? "" : curl_easy_strerror(code));
  printf("status %ld\n", status);
  if(location != NULL) field("redirect", location);
  while((header = curl_easy_nextheader(curl, CURLH_HEADER, -1, header)) != NULL) {
    printf("header ");
    hex(header->name, strlen(header->name));
    printf(" ");
    hex(header->value, strlen(header->value));
    printf("\n");
  }
  printf("body ");
  hex(body.data, body.length);
  printf("\n");
  return 0;
}
