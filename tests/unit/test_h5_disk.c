// A full disk, a missing permission, a kill at any moment: one IO error, and the old file or the whole new one.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <hdf5.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "h5_test.h"
#include "oht/h5.h"
#include "oht/memory.h"

static int files_in(const char *path) {
    int n = 0;
    DIR *dir = opendir(path);
    for (struct dirent *e; (e = readdir(dir));) n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

// Writes 2 MB of datasets; returns the first error.
static oht_status write_much(const char *path, bool checksum) {
    static float data[65536];
    oht_h5 *f;
    OHT_TRY(oht_h5_create(&f, path));
    oht_status status = oht_h5_set_text(f, "/", "format", "test");
    for (int i = 0; i < 8 && status == OHT_OK; i++) {
        char name[32];
        snprintf(name, sizeof(name), "/p/d%d", i);
        const oht_h5_shape shape = {.type = OHT_H5_F32, .rank = 2, .dim = {256, 256}};
        status = oht_h5_make(f, name, &shape, false, checksum);
        if (status == OHT_OK) status = oht_h5_write(f, name, 0, 100, OHT_H5_F32, data);
        if (status == OHT_OK) status = oht_h5_write(f, name, 100, 156, OHT_H5_F32, data);
    }
    if (status != OHT_OK) {
        oht_h5_close(f);
        return status;
    }
    OHT_TRY(oht_h5_commit(f));
    return OHT_OK;
}

static oht_status publish_much(const char *path) {
    static float data[65536];
    oht_h5 *f;
    OHT_TRY(oht_h5_create_memory(&f, path));
    const oht_h5_shape shape = {.type = OHT_H5_F32, .rank = 1, .dim = {65536}};
    oht_status status = oht_h5_make(f, "x", &shape, false, true);
    if (status == OHT_OK) status = oht_h5_write(f, "x", 0, 65536, OHT_H5_F32, data);
    if (status == OHT_OK) status = oht_h5_publish(f);
    oht_h5_close(f);
    return status;
}

// The whole life of a process on a full disk, its end included (HDF5 alone crashes there).
static int child_with_full_disk(rlim_t limit, int kind) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGXFSZ, SIG_IGN); // then write fails with EFBIG
        const struct rlimit small = {limit, RLIM_INFINITY};
        setrlimit(RLIMIT_FSIZE, &small);
        const char *path = in_folder("full/old.h5");
        oht_status status = kind == 2 ? publish_much(path) : write_much(path, kind == 1);
        bool good = status == OHT_IO && strstr(oht_error_last()->text, "old.h5") &&
                    strstr(oht_error_last()->text, strerror(EFBIG));
        good = good && H5close() >= 0; // what exit would do
        _exit(good ? 0 : 1);
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    return how;
}

static void full_disk_is_an_error_and_keeps_the_old_file(void **state) {
    (void)state;
    assert_int_equal(mkdir(in_folder("full"), 0700), 0);
    OK(oht_file_replace(in_folder("full/old.h5"), "old", 3));
    static const rlim_t limit[] = {0,     1,      48,     100,    500,    1000,   2048,    4096,
                                   10000, 100000, 260000, 262144, 300000, 700000, 1000000, 2000000};
    for (int kind = 0; kind < 3; kind++) {
        for (size_t i = 0; i < sizeof(limit) / sizeof(limit[0]); i++) {
            if (kind == 2 && limit[i] > 250000) continue; // the report is smaller
            int how = child_with_full_disk(limit[i], kind);
            if (how != 0)
                fail_msg("limit %llu, kind %d: wait status %x", (unsigned long long)limit[i], kind,
                         (unsigned)how);
            unsigned char *bytes;
            assert_int_equal(slurp(in_folder("full/old.h5"), &bytes), 3);
            assert_memory_equal(bytes, "old", 3);
            free(bytes);
            assert_int_equal(files_in(in_folder("full")), 1); // no .tmp
        }
    }
    OK(write_much(in_folder("full/old.h5"), true)); // and with room it works
}

static void missing_permission_is_an_error(void **state) {
    (void)state;
    oht_h5 *f;
    refused(oht_h5_create(&f, in_folder("no/such/place.h5")), OHT_IO, "No such file or directory");
    assert_null(f);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) { // root may write anywhere
        const char *path = in_folder("locked/new.h5"); // the file is what shall be missing
        if (mkdir(in_folder("locked"), 0500) != 0 || chown(in_folder("locked"), 65534, 65534) != 0 ||
            chmod(h5t_folder(), 0755) != 0)
            _exit(77);
        if (setgid(65534) != 0 || setuid(65534) != 0) _exit(77);
        bool good = oht_h5_create(&f, path) == OHT_IO && strstr(oht_error_last()->text, strerror(EACCES)) &&
                    strstr(oht_error_last()->text, "new.h5") && strstr(oht_error_last()->text, "fix:");
        good = good && publish_much(path) == OHT_IO && strstr(oht_error_last()->text, "new.h5");
        _exit(good && access(path, F_OK) != 0 ? 0 : 1);
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    if (WIFEXITED(how) && WEXITSTATUS(how) == 77) skip();
    assert_int_equal(how, 0);
}

static void an_uncommitted_file_leaves_nothing(void **state) {
    (void)state;
    assert_int_equal(mkdir(in_folder("left"), 0700), 0);
    spill(in_folder("left/x.h5.tmp"), (const unsigned char *)"stale", 5);
    oht_h5 *f;
    OK(oht_h5_create(&f, in_folder("left/x.h5")));
    const oht_h5_shape shape = {.type = OHT_H5_F32, .rank = 1, .dim = {4}};
    OK(oht_h5_make(f, "x", &shape, false, false));
    oht_h5_close(f);
    assert_int_equal(files_in(in_folder("left")), 0);
}

static void folders_and_plain_files(void **state) {
    (void)state;
    OK(oht_make_folder(in_folder("a/b//c/")));
    OK(oht_make_folder(in_folder("a/b/c")));
    OK(oht_file_replace(in_folder("a/b/c/f"), "one", 3));
    OK(oht_file_replace(in_folder("a/b/c/f"), "two!", 4));
    refused(oht_make_folder(in_folder("a/b/c/f/g")), OHT_IO, "Not a directory");
    refused(oht_make_folder(""), OHT_IO, "No such file");
    unsigned char *bytes;
    assert_int_equal(slurp(in_folder("a/b/c/f"), &bytes), 4);
    assert_memory_equal(bytes, "two!", 4);
    free(bytes);
    assert_int_equal(files_in(in_folder("a/b/c")), 1);
}

// What is no regular file stays what it is: renaming onto a device or a pipe would replace it.
static void only_files_are_replaced(void **state) {
    (void)state;
    oht_h5 *f;
    struct stat info;
    const char *path = in_folder("special");
    assert_int_equal(mkfifo(path, 0600), 0);
    refused(oht_file_replace(path, "x", 1), OHT_IO, "special: it is a pipe or a device");
    refused(oht_h5_create(&f, path), OHT_IO, "special: it is a pipe or a device");
    OK(oht_h5_create_memory(&f, path));
    refused(oht_h5_publish(f), OHT_IO, "special: it is a pipe or a device");
    oht_h5_close(f);
    assert_int_equal(stat(path, &info), 0);
    assert_true(S_ISFIFO(info.st_mode));
    refused(oht_h5_create(&f, h5t_folder()), OHT_IO, "it is a folder");
    FILE *in;
    assert_string_equal(oht_file_open(&in, path), "it is a pipe or a device, expected a file");
    assert_string_equal(oht_file_open(&in, h5t_folder()), "it is a folder, expected a file");
    assert_string_equal(oht_file_open(&in, "/dev/null"), "it is a pipe or a device, expected a file");
    assert_null(in);
}

// ---- kill -9 ----

// Publishes and commits in a loop; every file holds one number n in two places.
static void publish_for_ever(const char *path, bool in_memory) {
    static int64_t data[20000];
    oht_h5 *f = NULL;
    if (in_memory && oht_h5_create_memory(&f, path) != OHT_OK) _exit(1);
    const oht_h5_shape shape = {.type = OHT_H5_I64, .rank = 1, .dim = {20000}};
    for (int64_t n = 0;; n++) {
        for (int i = 0; i < 20000; i++) data[i] = n;
        if (!in_memory && oht_h5_create(&f, path) != OHT_OK) _exit(1);
        if ((n == 0 || !in_memory) && oht_h5_make(f, "x", &shape, false, true) != OHT_OK) _exit(1);
        if (oht_h5_write(f, "x", 0, 20000, OHT_H5_I64, data) != OHT_OK ||
            oht_h5_set_int(f, "/", "n", n) != OHT_OK)
            _exit(1);
        if ((in_memory ? oht_h5_publish(f) : oht_h5_commit(f)) != OHT_OK) _exit(1);
    }
}

static void killed_at_any_moment_the_file_is_whole(void **state) {
    (void)state;
    static int64_t data[20000];
    for (uint32_t k = 0; k < 50; k++) {
        const char *path = in_folder("killed.h5");
        unlink(path);
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) publish_for_ever(path, k % 2);
        while (access(path, F_OK) != 0) { // first publication
            int how;
            assert_int_equal(waitpid(child, &how, WNOHANG), 0);
        }
        usleep(rnd(400000 + k) % 20000);
        kill(child, SIGKILL);
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how));
        oht_h5 *f;
        int64_t n;
        OK(oht_h5_open(&f, path));
        OK(oht_h5_get_int(f, "/", "n", &n));
        OK(oht_h5_read(f, "x", 0, 20000, OHT_H5_I64, data));
        for (int i = 0; i < 20000; i++) assert_int_equal(data[i], n);
        oht_h5_close(f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_disk_is_an_error_and_keeps_the_old_file),
        cmocka_unit_test(missing_permission_is_an_error),
        cmocka_unit_test(an_uncommitted_file_leaves_nothing),
        cmocka_unit_test(folders_and_plain_files),
        cmocka_unit_test(only_files_are_replaced),
        cmocka_unit_test(killed_at_any_moment_the_file_is_whole),
    };
    return cmocka_run_group_tests(tests, make_temporary_folder, remove_temporary_folder);
}
