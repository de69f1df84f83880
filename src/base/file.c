// Plain files that appear whole or not at all: PATH.tmp, fsync, rename, fsync of the folder. A reader, or a
// restart after a kill, sees the old file or the new one, never a part.
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "oht/h5.h"
#include "oht/memory.h"

oht_status oht_file_error(const char *path, const char *doing, int error) {
    const char *fix = error == ENOSPC || error == EDQUOT || error == EFBIG
                          ? "\nfix: free space there, or choose another place with -o"
                      : error == EACCES || error == EPERM || error == EROFS
                          ? "\nfix: give write permission there, or choose another place with -o"
                          : "";
    OHT_FAIL(OHT_IO, "cannot %s %s: %s%s", doing, path, strerror(error), fix);
}

static const char *irregular(mode_t mode) {
    return S_ISREG(mode)   ? NULL
           : S_ISDIR(mode) ? "it is a folder, expected a file"
                           : "it is a pipe or a device, expected a file";
}

oht_status oht_file_replaceable(const char *path) {
    struct stat info;
    const char *why = stat(path, &info) == 0 ? irregular(info.st_mode) : NULL;
    if (why) OHT_FAIL(OHT_IO, "cannot write %s: %s", path, why); // renaming onto /dev/null would end it
    return OHT_OK;
}

oht_status oht_file_check_place(const char *path) {
    char folder[PATH_MAX];
    OHT_TRY(oht_file_replaceable(path));
    if (strlen(path) >= sizeof(folder)) return oht_file_error(path, "write", ENAMETOOLONG);
    memcpy(folder, path, strlen(path) + 1);
    if (access(dirname(folder), W_OK | X_OK) != 0) return oht_file_error(path, "write", errno);
    return OHT_OK;
}

const char *oht_file_open(FILE **out, const char *path) {
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // opening a pipe must not wait either
    if (fd < 0) return strerror(errno);
    struct stat info;
    const char *why = fstat(fd, &info) != 0 ? strerror(errno) : irregular(info.st_mode);
    if (!why && !(*out = fdopen(fd, "rb"))) why = strerror(errno);
    if (why) close(fd);
    return why;
}

oht_status oht_file_tmp_open(const char *tmp, int *fd) {
    unlink(tmp); // left by a killed run; a new inode keeps links and foreign permissions out
    *fd = open(tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (*fd < 0) return oht_file_error(tmp, "create", errno);
    return OHT_OK;
}

static oht_status sync_folder_of(const char *path) {
    char folder[PATH_MAX];
    if (strlen(path) >= sizeof(folder)) return oht_file_error(path, "sync the folder of", ENAMETOOLONG);
    memcpy(folder, path, strlen(path) + 1);
    const char *name = dirname(folder);
    int fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return oht_file_error(name, "open the folder", errno);
    int error = fsync(fd) == 0 ? 0 : errno;
    close(fd);
    // Some file systems cannot sync folders; they say so with EINVAL.
    if (error && error != EINVAL && error != ENOTSUP) return oht_file_error(name, "sync the folder", error);
    return OHT_OK;
}

oht_status oht_file_tmp_finish(const char *tmp, const char *path, int *fd) {
    int error = fsync(*fd) == 0 ? 0 : errno;
    if (close(*fd) != 0 && !error) error = errno;
    *fd = -1;
    if (!error && rename(tmp, path) != 0) error = errno;
    if (error) {
        unlink(tmp);
        return oht_file_error(path, "write", error);
    }
    OHT_TRY(sync_folder_of(path));
    return OHT_OK;
}

int oht_file_write_all(int fd, const void *bytes, size_t n, int64_t offset) {
    const char *at = bytes;
    while (n > 0) {
        ssize_t w = pwrite(fd, at, n < (1u << 30) ? n : 1u << 30, offset);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return errno;
        if (w == 0) return EIO;
        at += w;
        offset += w;
        n -= (size_t)w;
    }
    return 0;
}

oht_status oht_file_replace(const char *path, const void *bytes, size_t n) {
    char tmp[PATH_MAX];
    if (strlen(path) + 5 > sizeof(tmp)) return oht_file_error(path, "write", ENAMETOOLONG);
    memcpy(tmp, path, strlen(path));
    memcpy(tmp + strlen(path), ".tmp", 5);
    int fd;
    OHT_TRY(oht_file_replaceable(path));
    OHT_TRY(oht_file_tmp_open(tmp, &fd));
    int error = oht_file_write_all(fd, bytes, n, 0);
    if (error) {
        close(fd);
        unlink(tmp);
        return oht_file_error(path, "write", error);
    }
    OHT_TRY(oht_file_tmp_finish(tmp, path, &fd));
    return OHT_OK;
}

oht_status oht_make_folder(const char *path) {
    char part[PATH_MAX];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof(part))
        return oht_file_error(path, "create the folder", n ? ENAMETOOLONG : ENOENT);
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (part[i] != '/' && part[i] != '\0') continue;
        part[i] = '\0';
        if (mkdir(part, 0777) != 0) {
            int error = errno;
            struct stat info;
            if (stat(part, &info) != 0) return oht_file_error(part, "create the folder", error);
            if (!S_ISDIR(info.st_mode)) return oht_file_error(part, "create the folder", ENOTDIR);
        }
        if (i < n) part[i] = '/';
    }
    return OHT_OK;
}
