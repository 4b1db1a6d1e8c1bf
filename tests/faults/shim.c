/* Preloaded into the process that runs the stages: at the n-th write, rename, mkdir, unlink, truncation or fsync below a
   folder it kills the process (before the call, or after half of a write), or lets the disk be full from then on. It also
   knows which files were written and not forced to disk since: what a power cut would take. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT = 0, KILL = 1, HALF = 2, FULL = 3 };
#define MOST 65536

struct state {
    volatile int armed;
    volatile long mode, at, count, dirty;
    char root[PATH_MAX];
    unsigned long inodes[MOST];
};
static struct state *S;

__attribute__((constructor)) static void init(void) {
    S = mmap(NULL, sizeof *S, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void faults_prepare(const char *root, long mode, long at) {
    strncpy(S->root, root, PATH_MAX - 1);
    S->mode = mode; S->at = at; S->count = 0; S->dirty = 0; S->armed = 0;
}
void faults_arm(void) { S->armed = 1; }
long faults_count(void) { return S->count; }
long faults_dirty(void) { return S->dirty; }
unsigned long faults_inode(long i) { return S->inodes[i]; }

static int below(const char *path) { return S && S->armed && strncmp(path, S->root, strlen(S->root)) == 0; }

static int below_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (!S || !S->armed) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below(path);
}

static void touch(int fd, int forced) {
    struct stat st;
    if (fstat(fd, &st)) return;
    for (long i = 0; i < S->dirty; i++)
        if (S->inodes[i] == st.st_ino) {
            if (forced) S->inodes[i] = S->inodes[--S->dirty];
            return;
        }
    if (!forced && S->dirty < MOST) S->inodes[S->dirty++] = st.st_ino;
}

/* What is to be done with this call: KILL has happened already. */
static long event(void) {
    long n = S->count++;
    if (S->mode == KILL && n == S->at) kill(getpid(), SIGKILL);
    if (S->mode == HALF && n >= S->at) return HALF;
    if (S->mode == FULL && n >= S->at) return FULL;
    return COUNT;
}

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, name)

#define WRITES(call, half) \
    if (below_fd(fd)) { \
        long what = event(); \
        if (what == FULL) { errno = ENOSPC; return -1; } \
        touch(fd, 0); \
        if (what == HALF) { half; kill(getpid(), SIGKILL); } \
    } \
    return call

ssize_t write(int fd, const void *data, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    WRITES(real(fd, data, n), real(fd, data, n / 2));
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    WRITES(real(fd, data, n, at), real(fd, data, n / 2, at));
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    WRITES(real(fd, data, n, at), real(fd, data, n / 2, at));
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    WRITES(real(fd, parts, n), real(fd, parts, n / 2));
}
int fsync(int fd) {
    REAL(int, "fsync", int);
    if (below_fd(fd)) { event(); touch(fd, 1); }
    return real(fd);
}
int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    if (below_fd(fd)) { event(); touch(fd, 1); }
    return real(fd);
}
int ftruncate(int fd, off_t n) {
    REAL(int, "ftruncate", int, off_t);
    if (below_fd(fd)) event();
    return real(fd, n);
}
int ftruncate64(int fd, off64_t n) {
    REAL(int, "ftruncate64", int, off64_t);
    if (below_fd(fd)) event();
    return real(fd, n);
}
int truncate(const char *path, off_t n) {
    REAL(int, "truncate", const char *, off_t);
    if (below(path)) event();
    return real(path, n);
}
int truncate64(const char *path, off64_t n) {
    REAL(int, "truncate64", const char *, off64_t);
    if (below(path)) event();
    return real(path, n);
}
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    if (below(to)) event();
    return real(from, to);
}
int renameat(int f, const char *from, int t, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    if (below(to)) event();
    return real(f, from, t, to);
}
int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    if (below(path)) event();
    return real(path);
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    if (below(path) && event() == FULL) { errno = ENOSPC; return -1; }
    return real(path, mode);
}
