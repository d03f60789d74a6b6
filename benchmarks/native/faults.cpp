// Calls of the C library that fail when they are told to: preloaded (LD_PRELOAD) into programs of benchmarks.faults.
//
// $FAULTS holds rules OP:AT:COUNT:ACTION:PATH, one a line. A rule counts the calls of kind OP (write, read, open,
// rename, sync, remove, change = any of them but read, clock) on files whose path begins with PATH, in all processes
// that share the file $FAULTS_COUNTS, and acts on those number AT to AT + COUNT - 1. ACTION is
//   none      only count
//   errno N   the call fails with this error
//   signal N  the process gets this signal before the call
//   torn      half of the bytes are written, then SIGKILL
//   short     at most half of the bytes are read or written
//   jump N    the clock shows N seconds more, from this call on, and waits until a time of that clock end by it
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

namespace {

enum Op { WRITE, READ, OPEN, RENAME, SYNC, REMOVE, CHANGE, CLOCK, OPS };
const char* const OP_NAMES[OPS] = {"write", "read", "open", "rename", "sync", "remove", "change", "clock"};

struct Rule {
  Op op;
  int64_t at, count, value;
  char action[8];
  char path[PATH_MAX];
};

constexpr int MOST_RULES = 16;
Rule rules[MOST_RULES];
int rule_count = 0;
std::atomic<int64_t> own_counts[MOST_RULES];
std::atomic<int64_t>* counts = own_counts;

template <typename F>
F real(const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}
#define REAL(name) static auto call = real<decltype(&name)>(#name)

bool path_of(int fd, const char* name, char* path) {
  if (name && name[0] == '/') return snprintf(path, PATH_MAX, "%s", name) < PATH_MAX;
  char folder[PATH_MAX] = "";
  if (fd == AT_FDCWD) {
    if (!getcwd(folder, sizeof folder)) return false;
  } else {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, folder, sizeof folder - 1);
    if (size < 0) return false;
    folder[size] = 0;
  }
  return snprintf(path, PATH_MAX, name ? "%s/%s" : "%s", folder, name) < PATH_MAX;
}

// The rule that acts on this call, or null. A signal is sent here.
const Rule* acting(Op op, int fd, const char* name) {
  if (!rule_count) return nullptr;
  const Rule* found = nullptr;
  char path[PATH_MAX] = "";
  bool known = op == CLOCK;
  for (int i = 0; i < rule_count; i++) {
    const Rule& rule = rules[i];
    if (rule.op != op && !(rule.op == CHANGE && op != READ && op != CLOCK)) continue;
    if (!known) {
      int error = errno;
      if (!path_of(fd, name, path)) return nullptr;
      errno = error;
      known = true;
    }
    if (strncmp(path, rule.path, strlen(rule.path))) continue;
    int64_t number = ++counts[i];
    if (number < rule.at || number - rule.at >= rule.count) continue;
    if (!strcmp(rule.action, "signal"))
      kill(getpid(), rule.value);
    else if (strcmp(rule.action, "none"))
      found = &rule;
  }
  return found;
}

bool fails(const Rule* rule) {
  if (!rule || strcmp(rule->action, "errno")) return false;
  errno = rule->value;
  return true;
}

// How many of the bytes are transferred; `torn` is set if the process must end after them.
size_t limited(const Rule* rule, size_t size, bool* torn) {
  *torn = rule && !strcmp(rule->action, "torn");
  bool is_short = rule && !strcmp(rule->action, "short");
  return (*torn || is_short) && size > 1 ? size / 2 : size;
}

ssize_t ended(ssize_t result, bool torn) {
  if (torn) kill(getpid(), SIGKILL);
  return result;
}

// A vector of one shorter buffer, as a short transfer may end anywhere.
const iovec* first_half(const Rule* rule, const iovec* vector, int* size, iovec* shorter, bool* torn) {
  size_t length = *size ? vector->iov_len : 0;
  size_t some = limited(rule, length, torn);
  if (!*torn && some == length) return vector;
  *shorter = {vector->iov_base, some};
  *size = 1;
  return shorter;
}

__attribute__((constructor)) void start();

}  // namespace

extern "C" {

// Reads the rules; also called in a fork whose environment has changed.
void faults_arm() {
  rule_count = 0;
  const char* text = getenv("FAULTS");
  const char* file = getenv("FAULTS_COUNTS");
  int read_rules = 0;
  while (text && *text && read_rules < MOST_RULES) {
    Rule& rule = rules[read_rules];
    char op[16];
    long at, count, value = 0;
    int used = 0;
    if (sscanf(text, "%15[a-z]:%ld:%ld:%7[a-z] %ld:%n", op, &at, &count, rule.action, &value, &used) < 5 || !used) abort();
    rule.at = at, rule.count = count, rule.value = value;
    for (int i = 0; i < OPS; i++)
      if (!strcmp(op, OP_NAMES[i])) rule.op = static_cast<Op>(i);
    const char* end = strchrnul(text, '\n');
    snprintf(rule.path, sizeof rule.path, "%.*s", static_cast<int>(end - text - used), text + used);
    text = *end ? end + 1 : end;
    read_rules++;
  }
  counts = own_counts;
  for (auto& count : own_counts) count = 0;
  if (read_rules && file) {
    int fd = open(file, O_RDWR);
    void* shared = mmap(nullptr, sizeof own_counts, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED) abort();
    close(fd);
    counts = static_cast<std::atomic<int64_t>*>(shared);
  }
  rule_count = read_rules;
}

#define OPENS(name)                                              \
  int name(const char* path, int flags, ...) {                   \
    REAL(name);                                                  \
    va_list more;                                                \
    va_start(more, flags);                                       \
    mode_t mode = va_arg(more, mode_t);                          \
    va_end(more);                                                \
    bool writes = flags & (O_WRONLY | O_RDWR | O_CREAT);         \
    if (writes && fails(acting(OPEN, AT_FDCWD, path))) return -1; \
    return call(path, flags, mode);                              \
  }
#define OPENS_AT(name)                                      \
  int name(int fd, const char* path, int flags, ...) {      \
    REAL(name);                                             \
    va_list more;                                           \
    va_start(more, flags);                                  \
    mode_t mode = va_arg(more, mode_t);                     \
    va_end(more);                                           \
    bool writes = flags & (O_WRONLY | O_RDWR | O_CREAT);    \
    if (writes && fails(acting(OPEN, fd, path))) return -1; \
    return call(fd, path, flags, mode);                     \
  }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

#define TRANSFERS(op, name, buffer_type, parameters, arguments)      \
  ssize_t name(int fd, buffer_type buffer, size_t size parameters) { \
    REAL(name);                                                      \
    const Rule* rule = acting(op, fd, nullptr);                      \
    if (fails(rule)) return -1;                                      \
    bool torn;                                                       \
    size = limited(rule, size, &torn);                               \
    return ended(call(fd, buffer, size arguments), torn);            \
  }
#define OFFSET , off_t offset
#define OFFSET64 , off64_t offset
#define AT_OFFSET , offset
TRANSFERS(WRITE, write, const void*, , )
TRANSFERS(WRITE, pwrite, const void*, OFFSET, AT_OFFSET)
TRANSFERS(WRITE, pwrite64, const void*, OFFSET64, AT_OFFSET)
TRANSFERS(READ, read, void*, , )
TRANSFERS(READ, pread, void*, OFFSET, AT_OFFSET)
TRANSFERS(READ, pread64, void*, OFFSET64, AT_OFFSET)

#define VECTORS(op, name, parameters, arguments)                      \
  ssize_t name(int fd, const iovec* vector, int size parameters) {    \
    REAL(name);                                                       \
    const Rule* rule = acting(op, fd, nullptr);                       \
    if (fails(rule)) return -1;                                       \
    bool torn;                                                        \
    iovec shorter;                                                    \
    vector = first_half(rule, vector, &size, &shorter, &torn);        \
    return ended(call(fd, vector, size arguments), torn);             \
  }
VECTORS(WRITE, writev, , )
VECTORS(WRITE, pwritev, OFFSET, AT_OFFSET)
VECTORS(WRITE, pwritev64, OFFSET64, AT_OFFSET)
VECTORS(READ, readv, , )
VECTORS(READ, preadv, OFFSET, AT_OFFSET)
VECTORS(READ, preadv64, OFFSET64, AT_OFFSET)

#define FAILS(op, name, fd, path, parameters, arguments) \
  int name parameters {                                  \
    REAL(name);                                          \
    if (fails(acting(op, fd, path))) return -1;          \
    return call arguments;                               \
  }
FAILS(WRITE, ftruncate, fd, nullptr, (int fd, off_t size), (fd, size))
FAILS(WRITE, ftruncate64, fd, nullptr, (int fd, off64_t size), (fd, size))
FAILS(SYNC, fsync, fd, nullptr, (int fd), (fd))
FAILS(SYNC, fdatasync, fd, nullptr, (int fd), (fd))
FAILS(RENAME, rename, AT_FDCWD, to, (const char* from, const char* to), (from, to))
FAILS(RENAME, renameat, to_fd, to, (int fd, const char* from, int to_fd, const char* to), (fd, from, to_fd, to))
FAILS(RENAME, renameat2, to_fd, to, (int fd, const char* from, int to_fd, const char* to, unsigned flags),
      (fd, from, to_fd, to, flags))
FAILS(RENAME, link, AT_FDCWD, to, (const char* from, const char* to), (from, to))
FAILS(OPEN, mkdir, AT_FDCWD, path, (const char* path, mode_t mode), (path, mode))
FAILS(OPEN, mkdirat, fd, path, (int fd, const char* path, mode_t mode), (fd, path, mode))
FAILS(REMOVE, unlink, AT_FDCWD, path, (const char* path), (path))
FAILS(REMOVE, unlinkat, fd, path, (int fd, const char* path, int flags), (fd, path, flags))
FAILS(REMOVE, rmdir, AT_FDCWD, path, (const char* path), (path))

size_t fwrite(const void* buffer, size_t size, size_t number, FILE* file) {
  REAL(fwrite);
  return fails(acting(WRITE, fileno(file), nullptr)) ? 0 : call(buffer, size, number, file);
}

static std::atomic<int64_t> jumped{0};

static int64_t clock_offset() {
  if (const Rule* rule = acting(CLOCK, AT_FDCWD, nullptr)) jumped = rule->value;
  return jumped;
}

int clock_gettime(clockid_t clock, timespec* now) {
  REAL(clock_gettime);
  int result = call(clock, now);
  if (rule_count && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += clock_offset();
  return result;
}

int gettimeofday(timeval* now, void* zone) {
  REAL(gettimeofday);
  int result = call(now, zone);
  if (rule_count && now) now->tv_sec += clock_offset();
  return result;
}

// A deadline for the kernel, whose clock has not jumped. Those of the monotonic clock are smaller than any date.
static const timespec* for_kernel(const timespec* deadline, timespec* shifted) {
  constexpr time_t FIRST_DATE = 1'000'000'000;
  if (!rule_count || !deadline || deadline->tv_sec < FIRST_DATE) return deadline;
  *shifted = {deadline->tv_sec - jumped, deadline->tv_nsec};
  return shifted;
}

// The C library has an older pthread_cond_timedwait, which dlsym may find first.
int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex, const timespec* deadline) {
  using Call = int (*)(pthread_cond_t*, pthread_mutex_t*, const timespec*);
  static auto current = reinterpret_cast<Call>(dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2"));
  static auto call = current ? current : real<Call>("pthread_cond_timedwait");
  timespec shifted;
  return call(condition, mutex, for_kernel(deadline, &shifted));
}

int sem_timedwait(sem_t* semaphore, const timespec* deadline) {
  REAL(sem_timedwait);
  timespec shifted;
  return call(semaphore, for_kernel(deadline, &shifted));
}

// Abseil, and so JAX and TensorStore, wait by this call.
long syscall(long number, ...) {
  REAL(syscall);
  va_list list;
  va_start(list, number);
  long given[6];
  for (long& argument : given) argument = va_arg(list, long);
  va_end(list);
  timespec shifted;
  if (number == SYS_futex && (given[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET && (given[1] & FUTEX_CLOCK_REALTIME))
    given[3] = reinterpret_cast<long>(for_kernel(reinterpret_cast<const timespec*>(given[3]), &shifted));
  return call(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}

time_t time(time_t* now) {
  REAL(time);
  time_t seconds = call(nullptr) + (rule_count ? clock_offset() : 0);
  if (now) *now = seconds;
  return seconds;
}

}  // extern "C"

namespace {
void start() { faults_arm(); }
}  // namespace
