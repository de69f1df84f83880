// HDF5 files (include/oht/h5.h): open, create, publish, commit, close, and the lock around the library.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/h5_private.h"
#include "oht/memory.h"

static pthread_mutex_t library = PTHREAD_MUTEX_INITIALIZER;

void oht_h5_lock(void) {
    pthread_mutex_lock(&library);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    H5PLset_loading_state(0); // a file names its filters, and must not get code loaded by that
}

void oht_h5_unlock(void) {
    pthread_mutex_unlock(&library);
}

void oht_h5_silence(void) {
    oht_h5_lock();
    oht_h5_unlock();
}

const char *oht_h5_path(const oht_h5 *file) {
    return file->path;
}

static oht_status file_new(oht_h5 **out, const char *path, oht_h5_mode mode) {
    *out = NULL;
    oht_h5 *file;
    OHT_TRY(OHT_ALLOC(&file, 1, "HDF5 file"));
    file->id = file->driver = -1;
    file->mode = mode;
    file->sink.fd = -1;
    size_t n = strlen(path);
    oht_status status = OHT_ALLOC(&file->path, n + 1, "path");
    if (status == OHT_OK) status = OHT_ALLOC(&file->tmp, n + 5, "path");
    if (status != OHT_OK) {
        oht_free(file->path);
        oht_free(file);
        return oht_error_frame(status, __FILE__, __LINE__);
    }
    memcpy(file->path, path, n + 1);
    memcpy(file->tmp, path, n);
    memcpy(file->tmp + n, ".tmp", 5);
    *out = file;
    return OHT_OK;
}

void oht_h5_forget(oht_h5_slot *slot) {
    if (slot->name[0] != '\0') H5Dclose(slot->id);
    *slot = (oht_h5_slot){0};
}

void oht_h5_forget_all(oht_h5 *file) {
    for (int i = 0; i < OHT_H5_SLOTS; i++) oht_h5_forget(&file->slot[i]);
}

void oht_h5_close(oht_h5 *file) {
    if (!file) return;
    oht_h5_lock();
    if (file->mode != OHT_H5_READ && !file->sink.error)
        file->sink.error = ECANCELED; // closing writes nothing more
    oht_h5_forget_all(file);
    if (file->id >= 0) H5Fclose(file->id);
    if (file->driver >= 0) H5FDunregister(file->driver);
    oht_h5_unlock();
    if (file->sink.fd >= 0) {
        close(file->sink.fd);
        unlink(file->tmp);
    }
    oht_free(file->sink.bytes);
    oht_free(file->path);
    oht_free(file->tmp);
    oht_free(file);
}

// Latest format: with it and fletcher32 every flipped bit is found; older formats leave metadata unchecked.
static hid_t access_list(void) {
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(fapl, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST);
    H5Pset_fclose_degree(fapl, H5F_CLOSE_STRONG);
    return fapl;
}

// Opens what the sink holds, or begins a new file there.
static void open_sink(oht_h5 *file, bool fresh) {
    if (file->driver < 0) file->driver = oht_h5_driver_register();
    hid_t fapl = access_list();
    if (oht_h5_driver_use(fapl, file->driver, &file->sink) >= 0) {
        hid_t fcpl = H5Pcreate(H5P_FILE_CREATE);
        H5Pset_obj_track_times(fcpl, 0); // of the root group: same input, same bytes
        file->id =
            fresh ? H5Fcreate(file->tmp, H5F_ACC_TRUNC, fcpl, fapl) : H5Fopen(file->tmp, H5F_ACC_RDWR, fapl);
        H5Pclose(fcpl);
    }
    H5Pclose(fapl);
}

oht_status oht_h5_create(oht_h5 **out, const char *path) {
    oht_h5 *file;
    *out = NULL;
    OHT_TRY(file_new(&file, path, OHT_H5_CREATE));
    oht_status status = oht_file_replaceable(path);
    if (status == OHT_OK) status = oht_file_tmp_open(file->tmp, &file->sink.fd);
    if (status == OHT_OK) {
        oht_h5_lock();
        open_sink(file, true);
        oht_h5_unlock();
        if (file->id < 0)
            status = oht_error_set(OHT_INTERNAL, __FILE__, __LINE__, "%s: HDF5 cannot create a file", path);
    }
    if (status != OHT_OK) {
        oht_h5_close(file);
        return oht_error_frame(status, __FILE__, __LINE__);
    }
    *out = file;
    return OHT_OK;
}

oht_status oht_h5_create_memory(oht_h5 **out, const char *path) {
    oht_h5 *file;
    *out = NULL;
    OHT_TRY(file_new(&file, path, OHT_H5_MEMORY));
    oht_h5_lock();
    open_sink(file, true);
    oht_h5_unlock();
    if (file->id < 0) {
        oht_h5_close(file);
        OHT_FAIL(OHT_MEMORY, "%s: HDF5 cannot create a file in memory", path);
    }
    *out = file;
    return OHT_OK;
}

static oht_status not_hdf5(const char *path, int64_t bytes, bool signature) {
    if (!signature)
        OHT_FAIL(OHT_DATA,
                 "%s: not an HDF5 file (%lld bytes)\nfix: make it with ohtrain prepare, or name another file",
                 path, (long long)bytes);
    OHT_FAIL(OHT_DATA, "%s: damaged HDF5 file, perhaps cut off (%lld bytes)\nfix: copy or make it again",
             path, (long long)bytes);
}

static oht_status file_size(const char *path, int64_t *bytes) {
    struct stat info;
    if (stat(path, &info) != 0) return oht_file_error(path, "open", errno);
    if (!S_ISREG(info.st_mode))
        OHT_FAIL(OHT_DATA, "%s: not a regular file", path); // a pipe would block for ever
    if (access(path, R_OK) != 0) return oht_file_error(path, "read", errno);
    *bytes = info.st_size;
    return OHT_OK;
}

oht_status oht_h5_open(oht_h5 **out, const char *path) {
    *out = NULL;
    int64_t bytes;
    OHT_TRY(file_size(path, &bytes));
    oht_h5 *file;
    OHT_TRY(file_new(&file, path, OHT_H5_READ));
    file->bytes = bytes;
    oht_h5_lock();
    bool signature = H5Fis_hdf5(path) > 0;
    if (signature) {
        hid_t fapl = access_list();
        H5Pset_sieve_buf_size(fapl, 0); // single rows of contiguous data: 4 times faster
#if H5_VERSION_GE(1, 10, 7) && !(H5_VERS_MINOR == 12 && H5_VERS_RELEASE == 0)
        H5Pset_file_locking(fapl, 0, 1); // finished files never change; not all file systems have locks
#endif
        file->id = H5Fopen(path, H5F_ACC_RDONLY, fapl);
        H5Pclose(fapl);
    }
    oht_h5_unlock();
    if (file->id < 0) {
        oht_h5_close(file);
        return not_hdf5(path, bytes, signature);
    }
    *out = file;
    return OHT_OK;
}

static oht_status read_image(const char *path, size_t bytes, void *image) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return oht_file_error(path, "open", errno);
    size_t done = 0;
    while (done < bytes) {
        ssize_t r = pread(fd, (char *)image + done, bytes - done, (off_t)done);
        if (r < 0 && errno == EINTR) continue;
        if (r <= 0) {
            int error = r < 0 ? errno : EIO;
            close(fd);
            return oht_file_error(path, "read", error);
        }
        done += (size_t)r;
    }
    close(fd);
    return OHT_OK;
}

// A dataset of a loaded file, checked while its storage still is that of the file on disk.
static oht_status check_loaded(void *ctx, const char *name) {
    oht_h5 *file = ctx;
    hid_t id;
    OHT_TRY(oht_h5_object(file, name, &id));
    oht_h5_shape shape;
    oht_status status = oht_h5_check(file, name, id, &shape);
    H5Oclose(id);
    return status;
}

oht_status oht_h5_load_memory(oht_h5 **out, const char *path) {
    *out = NULL;
    int64_t bytes = 0;
    OHT_TRY(file_size(path, &bytes));
    oht_h5 *file;
    OHT_TRY(file_new(&file, path, OHT_H5_MEMORY));
    file->sink.n = file->sink.capacity = (size_t)bytes;
    oht_status status;
    OHT_TRY_GOTO(status, OHT_ALLOC(&file->sink.bytes, (size_t)bytes, "file in memory"), fail);
    OHT_TRY_GOTO(status, read_image(path, (size_t)bytes, file->sink.bytes), fail);
    oht_h5_lock();
    bool signature = H5Fis_hdf5(path) > 0;
    if (signature) open_sink(file, false);
    status = OHT_OK;
    if (file->id >= 0) {
        file->bytes = bytes;
        status = oht_h5_walk(file, "/", 0, check_loaded, file);
        file->bytes = 0; // from now on it is ours and grows
    }
    oht_h5_unlock();
    if (file->id < 0) status = not_hdf5(path, bytes, signature);
    if (status != OHT_OK) goto fail;
    *out = file;
    return OHT_OK;
fail:
    oht_h5_close(file);
    return status;
}

// Closing and opening again is what makes the bytes those of a finished file: while it is open, the latest
// format marks a file as being written, and readers refuse it.
static oht_status finish_memory(oht_h5 *file) {
    oht_h5_forget_all(file);
    bool good = H5Fclose(file->id) >= 0;
    file->id = -1;
    if (file->sink.error) return oht_h5_write_failed(file, "/", "update");
    open_sink(file, false);
    if (!good || file->id < 0)
        OHT_FAIL(OHT_INTERNAL, "%s: HDF5 cannot update the file in memory", file->path);
    return OHT_OK;
}

oht_status oht_h5_publish(oht_h5 *file) {
    if (file->mode != OHT_H5_MEMORY || file->id < 0)
        OHT_FAIL(OHT_INTERNAL, "%s: only files in memory are published", file->path);
    oht_h5_lock();
    oht_status status = finish_memory(file);
    oht_h5_unlock();
    OHT_TRY(status);
    OHT_TRY(oht_file_replace(file->path, file->sink.bytes, file->sink.n));
    return OHT_OK;
}

oht_status oht_h5_commit(oht_h5 *file) {
    oht_status status = OHT_OK;
    if (file->mode != OHT_H5_CREATE)
        OHT_FAIL_GOTO(status, OHT_INTERNAL, done, "%s: only created files are committed", file->path);
    oht_h5_lock();
    oht_h5_forget_all(file);
    bool good = H5Fflush(file->id, H5F_SCOPE_LOCAL) >= 0;
    good = H5Fclose(file->id) >= 0 && good;
    file->id = -1;
    oht_h5_unlock();
    if (file->sink.error) {
        status = oht_file_error(file->path, "write", file->sink.error);
        goto done;
    }
    if (!good) OHT_FAIL_GOTO(status, OHT_INTERNAL, done, "%s: HDF5 cannot finish the file", file->path);
    OHT_TRY_GOTO(status, oht_file_tmp_finish(file->tmp, file->path, &file->sink.fd), done);
done:
    oht_h5_close(file);
    return status;
}
