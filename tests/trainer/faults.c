/*
 * A disk that fails, for tests: preloaded, it stands between the program and the C library.
 *
 *   FAULT_BYTE=K    the write to a regular file that reaches byte K of all that is written ends there,
 *                   with "no space left on device"; so do all writes behind it if FAULT_FULL is set
 *   FAULT_RENAME=N  the N-th rename fails
 *   FAULT_SYNC=N    the N-th fsync fails
 *
 * What was written before a fault stays, as on a real disk.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static long setting(const char *name) {
    const char *value = getenv(name);
    return value ? atol(value) : -1;
}

ssize_t write(int file, const void *bytes, size_t count) {
    static ssize_t (*real)(int, const void *, size_t);
    static long written;
    static int failed;
    struct stat about;
    if (!real) real = dlsym(RTLD_NEXT, "write");
    long fault = setting("FAULT_BYTE");
    if (fault < 0 || fstat(file, &about) != 0 || !S_ISREG(about.st_mode)) return real(file, bytes, count);
    pthread_mutex_lock(&lock);
    ssize_t result;
    int full = failed && getenv("FAULT_FULL");
    if (full || (!failed && written + (long)count > fault)) {
        size_t fits = full ? 0 : (size_t)(fault - written);
        if (fits > 0) {
            /* A short write first, as the kernel does it; the next one then finds no room. */
            result = real(file, bytes, fits);
            written += (long)fits;
        } else {
            failed = 1;
            errno = ENOSPC;
            result = -1;
        }
    } else {
        result = real(file, bytes, count);
        if (result > 0) written += (long)result;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int rename(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    static long count;
    if (!real) real = dlsym(RTLD_NEXT, "rename");
    if (__sync_add_and_fetch(&count, 1) == setting("FAULT_RENAME")) {
        errno = EIO;
        return -1;
    }
    return real(from, to);
}

int fsync(int file) {
    static int (*real)(int);
    static long count;
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    if (__sync_add_and_fetch(&count, 1) == setting("FAULT_SYNC")) {
        errno = EIO;
        return -1;
    }
    return real(file);
}
