/* Remembers, outside the process, what a power cut would take with it: every write, truncation, creation, renaming and
 * removal under POWER_ROOT, with what was there before, and every fsync. power.rs reads it when the process is gone and
 * takes back what was not synced. A fsync here costs some time and nothing else: the page cache outlives SIGKILL.
 *
 * POWER_ROOT   the folder that is "the disk"
 * POWER_STATE  a folder beside it: `ops` is written here, removed files are kept here, `control` is read
 *
 * control[0] = 'e': fsync fails with EIO.  control[0] = 'l': fsync says that it did, and did not.
 *
 * ops is a sequence of `struct op`, each followed by path, path2, old and new bytes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITE = 1, TRUNCATE, SYNC, CREATE, UNLINK, RENAME, DIRSYNC, MKDIR };

struct op {
    uint32_t kind, path_len, path2_len, old_len, new_len, grave;
    uint64_t inode, offset, size_before, covers;
};

#define FDS 65536
#define FSYNC_US 300

static struct { char tracked, folder; } fds[FDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX], state[PATH_MAX];
static volatile const char *control;
static int ops = -1;
static uint64_t written; /* ops so far */
static uint32_t graves;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, name)

static ssize_t real_write(int fd, const void *bytes, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return real(fd, bytes, n);
}

static int real_open(const char *path, int flags, mode_t mode) {
    REAL(int, "open64", const char *, int, ...);
    return real(path, flags, mode);
}

__attribute__((constructor)) static void start(void) {
    const char *r = getenv("POWER_ROOT"), *s = getenv("POWER_STATE");
    if (!r || !s) return;
    snprintf(root, sizeof root, "%s/", r);
    snprintf(state, sizeof state, "%s", s);
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/control", state);
    int fd = real_open(path, O_RDONLY | O_CLOEXEC, 0);
    if (fd >= 0) {
        void *page = mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
        control = page == MAP_FAILED ? NULL : page;
        close(fd);
    }
    snprintf(path, sizeof path, "%s/ops", state);
    ops = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static char mode(void) { return control ? control[0] : 0; }

/* Absolute; whether it is on the disk and not one of the files that no power cut matters to. */
static int on_disk(int at, const char *path, char *full) {
    if (ops < 0) return 0;
    if (path[0] == '/') {
        snprintf(full, PATH_MAX, "%s", path);
    } else {
        char link[64], folder[PATH_MAX];
        ssize_t n;
        if (at == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        if ((n = readlink(link, folder, sizeof folder - 1)) < 0) return 0;
        folder[n] = 0;
        if (snprintf(full, PATH_MAX, "%s/%s", folder, path) >= PATH_MAX) return 0;
    }
    size_t n = strlen(full);
    while (n > 1 && full[n - 1] == '/') full[--n] = 0;
    if (strncmp(full, root, strlen(root)) != 0) return strncmp(full, root, strlen(root) - 1) == 0 && n == strlen(root) - 1;
    return !(n > 4 && strcmp(full + n - 4, "-shm") == 0) && !(n > 5 && strcmp(full + n - 5, "/lock") == 0);
}

static void note(struct op op, const char *path, const char *path2, const void *old, const void *new) {
    op.path_len = path ? strlen(path) : 0;
    op.path2_len = path2 ? strlen(path2) : 0;
    struct iovec parts[] = {
        {&op, sizeof op},           {(void *)path, op.path_len}, {(void *)path2, op.path2_len},
        {(void *)old, op.old_len}, {(void *)new, op.new_len},
    };
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (real(ops, parts, 5) < 0) abort();
    written++;
}

static uint64_t inode_of(const char *path) {
    struct stat s;
    return lstat(path, &s) == 0 ? s.st_ino : 0;
}

/* Keeps what `path` names, so that its removal can be taken back. */
static uint32_t bury(const char *path) {
    char grave[PATH_MAX + 32];
    snprintf(grave, sizeof grave, "%s/grave-%u", state, ++graves);
    return link(path, grave) == 0 ? graves : 0;
}

static void note_truncate(uint64_t inode, int fd, off_t before, off_t to) {
    size_t cut = before > to ? (size_t)(before - to) : 0;
    char *old = malloc(cut + 1);
    ssize_t n = cut ? pread(fd, old, cut, to) : 0;
    struct op op = {.kind = TRUNCATE, .inode = inode, .offset = to, .size_before = before, .old_len = n > 0 ? n : 0};
    note(op, NULL, NULL, old, NULL);
    free(old);
}

static int opened(int at, const char *path, int flags, mode_t m, int (*open_it)(int, const char *, int, mode_t)) {
    char full[PATH_MAX];
    if (!on_disk(at, path, full)) return open_it(at, path, flags, m);
    pthread_mutex_lock(&lock);
    struct stat s;
    int there = lstat(full, &s) == 0;
    if (there && (flags & O_TRUNC) && s.st_size > 0) {
        int fd = real_open(full, O_RDONLY, 0);
        note_truncate(s.st_ino, fd, s.st_size, 0);
        close(fd);
    }
    int fd = open_it(at, path, flags, m);
    if (fd >= 0 && fd < FDS && fstat(fd, &s) == 0) {
        fds[fd].tracked = 1;
        fds[fd].folder = S_ISDIR(s.st_mode);
        if (!there && (flags & O_CREAT)) note((struct op){.kind = CREATE, .inode = s.st_ino}, full, NULL, NULL, NULL);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

static int by_open(int at, const char *path, int flags, mode_t m) { (void)at; return real_open(path, flags, m); }
static int by_openat(int at, const char *path, int flags, mode_t m) {
    REAL(int, "openat64", int, const char *, int, ...);
    return real(at, path, flags, m);
}

#define MODE(flags) \
    mode_t m = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); m = va_arg(list, int); va_end(list); }

int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, m, by_open); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, m, by_open); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return opened(at, path, flags, m, by_openat); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return opened(at, path, flags, m, by_openat); }

int close(int fd) {
    REAL(int, "close", int);
    if (fd >= 0 && fd < FDS) fds[fd].tracked = 0;
    return real(fd);
}

static int tracked(int fd) { return fd >= 0 && fd < FDS && fds[fd].tracked && !fds[fd].folder; }

static void note_write(int fd, const void *bytes, size_t n, off_t at) {
    struct stat s;
    if (fstat(fd, &s) != 0) abort();
    char *old = malloc(n + 1), link[64];
    ssize_t was = pread(fd, old, n, at);
    if (was < 0 && errno == EBADF) {
        /* For writing alone. Never reopened otherwise: to close it would let go of the locks that SQLite has on it. */
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        int again = real_open(link, O_RDONLY | O_CLOEXEC, 0);
        was = pread(again, old, n, at);
        close(again);
    }
    struct op op = {.kind = WRITE, .inode = s.st_ino, .offset = at, .size_before = s.st_size,
                    .old_len = was > 0 ? was : 0, .new_len = n};
    note(op, NULL, NULL, old, bytes);
    free(old);
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
    if (!tracked(fd)) return real(fd, bytes, n, at);
    pthread_mutex_lock(&lock);
    note_write(fd, bytes, n, at);
    ssize_t done = real(fd, bytes, n, at);
    pthread_mutex_unlock(&lock);
    return done;
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) { return pwrite64(fd, bytes, n, at); }

static off_t next_at(int fd) {
    return lseek(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
}

ssize_t write(int fd, const void *bytes, size_t n) {
    if (!tracked(fd)) return real_write(fd, bytes, n);
    pthread_mutex_lock(&lock);
    note_write(fd, bytes, n, next_at(fd));
    ssize_t done = real_write(fd, bytes, n);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (!tracked(fd)) return real(fd, parts, count);
    /* One part is a legal answer: the caller writes the rest. */
    return count > 0 ? write(fd, parts[0].iov_base, parts[0].iov_len) : 0;
}

int ftruncate64(int fd, off_t to) {
    REAL(int, "ftruncate64", int, off_t);
    if (!tracked(fd)) return real(fd, to);
    pthread_mutex_lock(&lock);
    struct stat s;
    if (fstat(fd, &s) != 0) abort();
    note_truncate(s.st_ino, fd, s.st_size, to);
    int done = real(fd, to);
    pthread_mutex_unlock(&lock);
    return done;
}
int ftruncate(int fd, off_t to) { return ftruncate64(fd, to); }

static int synced(int fd) {
    struct stat s;
    char link[64], path[PATH_MAX];
    pthread_mutex_lock(&lock);
    /* What is written while the disk works is not part of it. */
    uint64_t covers = written;
    pthread_mutex_unlock(&lock);
    usleep(FSYNC_US);
    if (mode() == 'e') { errno = EIO; return -1; }
    if (mode() == 'l') return 0;
    if (fstat(fd, &s) != 0) return -1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return -1;
    path[n] = 0;
    pthread_mutex_lock(&lock);
    struct op op = {.kind = fds[fd].folder ? DIRSYNC : SYNC, .inode = s.st_ino, .covers = covers};
    note(op, path, NULL, NULL, NULL);
    pthread_mutex_unlock(&lock);
    return 0;
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    return fd >= 0 && fd < FDS && fds[fd].tracked ? synced(fd) : real(fd);
}
int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return fd >= 0 && fd < FDS && fds[fd].tracked ? synced(fd) : real(fd);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    char full[PATH_MAX];
    if (!on_disk(AT_FDCWD, path, full)) return real(path);
    pthread_mutex_lock(&lock);
    uint64_t inode = inode_of(full);
    if (inode) note((struct op){.kind = UNLINK, .inode = inode, .grave = bury(full)}, full, NULL, NULL, NULL);
    int done = real(path);
    pthread_mutex_unlock(&lock);
    return done;
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    char full[PATH_MAX], full_to[PATH_MAX];
    if (!on_disk(AT_FDCWD, from, full) || !on_disk(AT_FDCWD, to, full_to)) return real(from, to);
    pthread_mutex_lock(&lock);
    uint32_t grave = inode_of(full_to) ? bury(full_to) : 0;
    note((struct op){.kind = RENAME, .inode = inode_of(full), .grave = grave}, full, full_to, NULL, NULL);
    int done = real(from, to);
    pthread_mutex_unlock(&lock);
    return done;
}

int mkdir(const char *path, mode_t m) {
    REAL(int, "mkdir", const char *, mode_t);
    char full[PATH_MAX];
    int done = real(path, m);
    if (done == 0 && on_disk(AT_FDCWD, path, full)) {
        pthread_mutex_lock(&lock);
        note((struct op){.kind = MKDIR, .inode = inode_of(full)}, full, NULL, NULL, NULL);
        pthread_mutex_unlock(&lock);
    }
    return done;
}
