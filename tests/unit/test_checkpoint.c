// Checkpoints: what is written comes back bit for bit; a damaged one is skipped with a warning, another
// model's refused; old ones and leftovers of killed runs go away; a full disk leaves the good ones alone.
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/random.h"
#include "oht/train.h"

static char folder[64];
static oht_backend *be;
static oht_config cfg;

static int fresh_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/oht-checkpoint-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

static int begin(void **state) {
    (void)state;
    oht_h5_silence();
    oht_log_init(1, true, "lines"); // as on another rank: no warnings on the screen
    oht_config_defaults(&cfg);
    return oht_backend_cpu_create(&be) == OHT_OK ? 0 : -1;
}

static int end(void **state) {
    (void)state;
    oht_backend_destroy(be);
    return 0;
}

// ---- a model ----

typedef struct shape {
    const char *name;
    int rank;
    int64_t dim[4];
} shape;

// Ranks 1 to 4; "table" is larger than the buffer of 8 MiB, "wide" has a row larger than a chunk of 1 MiB.
static const shape small_model[] = {{"embed.tokens", 2, {100, 16}}, {"layer.0.q.weight", 2, {16, 16}},
                                    {"layer.0.q.bias", 1, {16}},    {"gate", 3, {2, 3, 5}},
                                    {"patch", 4, {2, 3, 4, 5}},     {"scalar", 1, {1}}};
static const shape large_model[] = {
    {"table", 2, {3001, 1024}}, {"wide", 2, {3, 400000}}, {"bias", 1, {5000000}}};

static oht_params *model_of(const shape *item, int n) {
    oht_params *p;
    OK(oht_params_create(&p));
    for (int i = 0; i < n; i++) {
        oht_param one = {.rank = item[i].rank, .group = -1, .zero_row = -1};
        int id;
        snprintf(one.name, sizeof(one.name), "%s", item[i].name);
        snprintf(one.hf_name, sizeof(one.hf_name), "hf.%s", item[i].name);
        memcpy(one.dim, item[i].dim, sizeof(one.dim));
        OK(oht_params_add(p, &one, &id));
    }
    OK(oht_params_layout(p));
    return p;
}

static float value(uint32_t stream, size_t i, int64_t step) {
    return oht_uniform(
               oht_random_block(11, OHT_DRAW_TEST, stream, (uint32_t)step, 0, (uint32_t)(i / 4)).v[i % 4]) -
           0.5f;
}

static oht_state new_state(const oht_params *p) {
    oht_state s = {0};
    OK(OHT_ALLOC(&s.param, p->flat_count, "param"));
    OK(OHT_ALLOC(&s.m, p->flat_count, "m"));
    OK(OHT_ALLOC(&s.v, p->flat_count, "v"));
    return s;
}

static void fill_state(oht_state *s, const oht_params *p, int64_t step) {
    s->step = step;
    for (size_t i = 0; i < p->flat_count; i++) {
        s->param[i] = value(0, i, step);
        s->m[i] = value(1, i, step) * 1e-30f;
        s->v[i] = fabsf(value(2, i, step));
    }
}

static void free_state(oht_state *s) {
    oht_free(s->param);
    oht_free(s->m);
    oht_free(s->v);
}

static void assert_state(const oht_state *s, const oht_params *p, int64_t step, bool moments) {
    oht_state want = new_state(p);
    fill_state(&want, p, step);
    assert_int_equal(s->step, step);
    for (int i = 0; i < p->n; i++) {
        size_t at = p->item[i].offset, n = (size_t)p->item[i].count * sizeof(float);
        assert_memory_equal(s->param + at, want.param + at, n);
        if (moments) assert_memory_equal(s->m + at, want.m + at, n);
        if (moments) assert_memory_equal(s->v + at, want.v + at, n);
    }
    free_state(&want);
}

static const char *checkpoint_at(int64_t step) {
    static char path[4][160];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof(path[0]), "%s/checkpoints/step-%08lld.h5", folder, (long long)step);
    return path[next];
}

// Writes checkpoints of these steps, keeping all.
static void write_steps(const oht_params *p, const int64_t *step, int n) {
    oht_state s = new_state(p);
    for (int i = 0; i < n; i++) {
        fill_state(&s, p, step[i]);
        OK(oht_checkpoint_write(folder, &cfg, p, be, &s, 100));
    }
    free_state(&s);
}

static void assert_newest(const oht_params *p, int64_t step) {
    oht_state s = new_state(p);
    bool found;
    OK(oht_checkpoint_read(folder, p, be, &s, true, &found));
    assert_true(found);
    assert_state(&s, p, step, true);
    free_state(&s);
}

#define MODEL(items) model_of(items, sizeof(items) / sizeof((items)[0]))

// ---- tests ----

static void nothing_there_is_no_error(void **state) {
    (void)state;
    oht_params *p = MODEL(small_model);
    oht_state s = new_state(p);
    bool found = true;
    OK(oht_checkpoint_read(folder, p, be, &s, true, &found));
    assert_false(found);
    OK(oht_checkpoint_read("/nonexistent/run", p, be, &s, true, &found));
    assert_false(found);
    free_state(&s);
    oht_params_destroy(p);
}

static void all_bits_come_back(void **state) {
    (void)state;
    const shape *const models[] = {small_model, large_model};
    const int n[] = {6, 3};
    for (int k = 0; k < 2; k++) {
        oht_params *p = model_of(models[k], n[k]);
        oht_state s = new_state(p), back = new_state(p);
        fill_state(&s, p, 1000 + k);
        s.param[p->item[0].offset] = 1e-42f; // denormal
        double start = oht_clock_s();
        OK(oht_checkpoint_write(folder, &cfg, p, be, &s, 2));
        double seconds = oht_clock_s() - start, bytes = 12.0 * (double)p->flat_count;
        if (k == 1)
            print_message("checkpoint of %.0f MB: written with %.2f GB/s\n", 1e-6 * bytes,
                          1e-9 * bytes / seconds);
        for (size_t i = 0; i < p->flat_count; i++) back.param[i] = -7;
        bool found;
        start = oht_clock_s();
        OK(oht_checkpoint_read(folder, p, be, &back, true, &found));
        if (k == 1) print_message("read with %.2f GB/s\n", 1e-9 * bytes / (oht_clock_s() - start));
        assert_true(found);
        assert_true(back.param[p->item[0].offset] == 1e-42f);
        back.param[p->item[0].offset] = value(0, p->item[0].offset, 1000 + k);
        assert_state(&back, p, 1000 + k, true);
        size_t last =
            p->item[p->n - 1].offset + (size_t)p->item[p->n - 1].count; // padding behind a parameter
        if (last < p->flat_count && last % 16 != 0) assert_true(back.param[last] == -7);
        free_state(&s);
        free_state(&back);
        oht_params_destroy(p);
        assert_int_equal(remove_folder(NULL), 0);
        OK(oht_make_folder(folder));
    }
}

static void the_file_describes_itself(void **state) {
    (void)state;
    oht_params *p = MODEL(small_model);
    write_steps(p, (const int64_t[]){1000}, 1);
    oht_h5 *f;
    char text[64], *config, *want, target[64] = "";
    int64_t step;
    oht_h5_shape shape_found;
    OK(oht_h5_open(&f, checkpoint_at(1000)));
    OK(oht_h5_get_text(f, "/", "format", text, sizeof(text)));
    assert_string_equal(text, "ohtrain-checkpoint");
    OK(oht_h5_get_int(f, "/", "step", &step));
    assert_int_equal(step, 1000);
    OK(oht_h5_get_long_text(f, "/", "config", &config));
    OK(oht_config_text(&cfg, &want));
    assert_string_equal(config, want);
    OK(oht_h5_get_text(f, "/param/layer.0.q.bias", "hf_name", text, sizeof(text)));
    assert_string_equal(text, "hf.layer.0.q.bias");
    OK(oht_h5_shape_of(f, "/adam_v/patch", 4, OHT_H5_F32, &shape_found));
    assert_int_equal(shape_found.dim[3], 5);
    oht_h5_close(f);
    char path[160];
    snprintf(path, sizeof(path), "%s/checkpoints/latest", folder);
    assert_true(readlink(path, target, sizeof(target) - 1) > 0);
    assert_string_equal(target, "step-00001000.h5");
    oht_free(config);
    oht_free(want);
    oht_params_destroy(p);
}

static void evaluation_needs_no_moments(void **state) {
    (void)state;
    oht_params *p = MODEL(small_model);
    oht_state s = new_state(p), back = {0};
    fill_state(&s, p, 5);
    float *m = s.m;
    s.m = NULL; // nor does a checkpoint
    OK(oht_checkpoint_write(folder, &cfg, p, be, &s, 2));
    OK(OHT_ALLOC(&back.param, p->flat_count, "param"));
    bool found;
    OK(oht_checkpoint_read(folder, p, be, &back, false, &found));
    assert_true(found);
    assert_state(&back, p, 5, false);
    oht_free(back.param);
    back = new_state(p);
    FAILS(oht_checkpoint_read(folder, p, be, &back, true, &found), OHT_DATA, "damaged");
    assert_false(found);
    s.m = m;
    free_state(&s);
    free_state(&back);
    oht_params_destroy(p);
}

// ---- damage ----

static void cut(const char *path, double part) {
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(truncate(path, (off_t)(part * (double)info.st_size)), 0);
}

static void flip(const char *path, double part) {
    struct stat info;
    unsigned char byte;
    assert_int_equal(stat(path, &info), 0);
    int fd = open(path, O_RDWR);
    off_t at = (off_t)(part * (double)info.st_size);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static void write_plain(const char *path, float x) { // whole as a file, but with a value that is not finite
    const oht_params *p = MODEL(small_model);
    oht_h5 *f;
    OK(oht_h5_create(&f, path));
    OK(oht_h5_set_text(f, "/", "format", "ohtrain-checkpoint"));
    OK(oht_h5_set_int(f, "/", "format_version", 1));
    OK(oht_h5_set_int(f, "/", "step", 30));
    float data[2000] = {0};
    for (int i = 0; i < p->n; i++) {
        const char *groups[] = {"param", "adam_m", "adam_v"};
        for (int g = 0; g < 3; g++) {
            char name[128];
            snprintf(name, sizeof(name), "/%s/%s", groups[g], p->item[i].name);
            oht_h5_shape sh = {.type = OHT_H5_F32, .rank = p->item[i].rank};
            memcpy(sh.dim, p->item[i].dim, sizeof(sh.dim));
            OK(oht_h5_make(f, name, &sh, false, true));
            data[p->item[i].count - 1] = g == 2 && i == 3 ? x : 0;
            OK(oht_h5_write(f, name, 0, sh.dim[0], OHT_H5_F32, data));
            data[p->item[i].count - 1] = 0;
        }
    }
    OK(oht_h5_commit(f));
    oht_params_destroy((oht_params *)p);
}

static void a_damaged_one_is_skipped(void **state) {
    (void)state;
    oht_params *p = MODEL(small_model);
    const int64_t steps[] = {10, 20, 30};
    for (int kind = 0; kind < 9; kind++) {
        write_steps(p, steps, 3);
        const char *path = checkpoint_at(30);
        switch (kind) {
        case 0:
            cut(path, 0.5);
            break;
        case 1:
            cut(path, 0.0);
            break;
        case 2:
            cut(path, 0.999);
            break;
        case 3:
            flip(path, 0.5);
            break; // in the data
        case 4:
            flip(path, 0.0);
            break; // the signature
        case 5:
            write_plain(path, NAN);
            break;
        case 6:
            write_plain(path, INFINITY);
            break;
        case 7:
            assert_int_equal(rename(checkpoint_at(20), path), 0);
            break; // another step under this name
        case 8: // a folder of that name
            unlink(path);
            assert_int_equal(mkdir(path, 0700), 0);
            break;
        }
        assert_newest(p, kind == 7 ? 10 : 20);
        if (kind == 8) assert_int_equal(rmdir(path), 0);
    }
    write_plain(checkpoint_at(30), 0); // the cases above failed for the reason they claim
    oht_state s = new_state(p);
    bool found;
    OK(oht_checkpoint_read(folder, p, be, &s, true, &found));
    assert_int_equal(s.step, 30);
    for (int i = 0; i < 3; i++)
        if (access(checkpoint_at(steps[i]), F_OK) == 0) cut(checkpoint_at(steps[i]), 0.7);
    FAILS(oht_checkpoint_read(folder, p, be, &s, true, &found), OHT_DATA, "are damaged");
    assert_false(found);
    free_state(&s);
    oht_params_destroy(p);
}

static void every_flipped_bit_is_found_or_harmless(void **state) {
    (void)state;
    oht_params *p = MODEL(small_model);
    write_steps(p, (const int64_t[]){10, 20}, 2);
    oht_state s = new_state(p);
    int used = 0, skipped = 0;
    for (int k = 0; k < 300; k++) {
        double part = (k + 0.37) / 300;
        flip(checkpoint_at(20), part);
        bool found;
        OK(oht_checkpoint_read(folder, p, be, &s, true, &found));
        assert_true(found);
        assert_state(&s, p, s.step == 20 ? 20 : 10, true); // whichever it took, it is right
        used += s.step == 20;
        skipped += s.step == 10;
        flip(checkpoint_at(20), part);
    }
    print_message("of 300 flipped bits %d were found, %d did no harm\n", skipped, used);
    assert_true(skipped > 30);
    free_state(&s);
    oht_params_destroy(p);
}

static void another_model_is_refused(void **state) {
    (void)state;
    oht_params *p = MODEL(small_model);
    write_steps(p, (const int64_t[]){10, 20}, 2);
    static const struct {
        int item;
        shape other;
        const char *word;
    } kinds[] = {
        {1, {"layer.0.q.weight", 2, {16, 17}}, "layer.0.q.weight is 16 x 16, this model's is 16 x 17"},
        {2, {"layer.0.q.bias", 2, {16, 1}}, "layer.0.q.bias is 16, this model's is 16 x 1"},
        {5, {"other", 1, {1}}, "parameter scalar, which this model does not have"},
        {0, {"embed.tokens", 2, {101, 16}}, "100 x 16, this model's is 101 x 16"},
    };
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        shape changed[6];
        memcpy(changed, small_model, sizeof(changed));
        changed[kinds[k].item] = kinds[k].other;
        oht_params *q = model_of(changed, 6);
        oht_state s = new_state(q);
        bool found;
        FAILS(oht_checkpoint_read(folder, q, be, &s, true, &found), OHT_DATA, kinds[k].word);
        assert_non_null(strstr(oht_error_last()->text, "step-00000020.h5"));
        assert_non_null(strstr(oht_error_last()->text, "fix: "));
        free_state(&s);
        oht_params_destroy(q);
    }
    shape more[7];
    memcpy(more, small_model, sizeof(small_model));
    more[6] = (shape){"extra", 1, {4}};
    oht_params *q = model_of(more, 7);
    oht_state s = new_state(q);
    bool found;
    FAILS(oht_checkpoint_read(folder, q, be, &s, true, &found), OHT_DATA, "lacks the parameter extra");
    free_state(&s);
    oht_params_destroy(q);
    oht_params_destroy(p);
}

// ---- the folder ----

static void old_ones_and_leftovers_go(void **state) {
    (void)state;
    oht_params *p = MODEL(small_model);
    oht_state s = new_state(p);
    char path[160];
    snprintf(path, sizeof(path), "%s/checkpoints", folder);
    OK(oht_make_folder(path));
    static const char *const stale[] = {"step-00000005.h5.tmp", "latest.tmp"}, *const foreign[] = {
                                                                                   "notes.txt", "step-7.h5",
                                                                                   "step-000000xx.h5"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/checkpoints/%s", folder, stale[i]);
        OK(oht_file_replace(path, "x", 1));
    }
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/checkpoints/%s", folder, foreign[i]);
        OK(oht_file_replace(path, "x", 1));
    }
    const int64_t steps[] = {10, 20, 30, 99999999, 123456789, 40};
    for (int i = 0; i < 6; i++) {
        fill_state(&s, p, steps[i]);
        OK(oht_checkpoint_write(folder, &cfg, p, be, &s, 2));
        for (int k = 0; k < 2; k++) {
            snprintf(path, sizeof(path), "%s/checkpoints/%s", folder, stale[k]);
            assert_int_equal(access(path, F_OK), -1);
        }
    }
    // 40 came after 99999999 and 123456789: what is later than the newest state is a leftover
    static const int there[] = {0, 0, 1, 0, 0, 1};
    for (int i = 0; i < 6; i++) {
        if (i == 2) continue; // 30 was among the oldest when 123456789 was written
        assert_int_equal(access(checkpoint_at(steps[i]), F_OK) == 0, there[i]);
    }
    for (int i = 0; i < 3; i++) { // not ours, not touched
        snprintf(path, sizeof(path), "%s/checkpoints/%s", folder, foreign[i]);
        assert_int_equal(access(path, F_OK), 0);
    }
    assert_newest(p, 40);
    fill_state(&s, p, 50);
    OK(oht_checkpoint_write(folder, &cfg, p, be, &s, 2));
    fill_state(&s, p, 60);
    OK(oht_checkpoint_write(folder, &cfg, p, be, &s, 2));
    assert_int_equal(access(checkpoint_at(40), F_OK), -1);
    assert_int_equal(access(checkpoint_at(50), F_OK), 0);
    assert_newest(p, 60);
    free_state(&s);
    oht_params_destroy(p);
}

static void a_state_that_is_not_finite_is_not_written(void **state) {
    (void)state;
    oht_params *p = MODEL(small_model);
    write_steps(p, (const int64_t[]){10}, 1);
    oht_state s = new_state(p);
    fill_state(&s, p, 20);
    s.v[p->item[4].offset + 119] = NAN;
    FAILS(oht_checkpoint_write(folder, &cfg, p, be, &s, 1), OHT_NUMERIC, "adam_v/patch");
    assert_newest(p, 10);
    free_state(&s);
    oht_params_destroy(p);
}

static int entries(void) {
    char path[160];
    snprintf(path, sizeof(path), "%s/checkpoints", folder);
    int n = 0;
    DIR *dir = opendir(path);
    for (struct dirent *e; (e = readdir(dir));) n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void a_full_disk_leaves_the_good_ones(void **state) {
    (void)state;
    oht_params *p = MODEL(small_model);
    write_steps(p, (const int64_t[]){10, 20}, 2);
    static const rlim_t limit[] = {0, 100, 5000, 20000};
    for (size_t i = 0; i < sizeof(limit) / sizeof(limit[0]); i++) {
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            signal(SIGXFSZ, SIG_IGN);
            const struct rlimit small = {limit[i], RLIM_INFINITY};
            setrlimit(RLIMIT_FSIZE, &small);
            oht_state s = new_state(p);
            fill_state(&s, p, 30);
            bool good = oht_checkpoint_write(folder, &cfg, p, be, &s, 1) == OHT_IO &&
                        strstr(oht_error_last()->text, "step-00000030.h5");
            _exit(good ? 0 : 1);
        }
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_int_equal(how, 0);
        assert_int_equal(entries(), 3); // two and `latest`
        assert_newest(p, 20);
    }
    oht_params_destroy(p);
}

static void killed_at_any_moment_one_is_whole(void **state) {
    (void)state;
    oht_params *p = MODEL(small_model);
    for (uint32_t k = 0; k < 30; k++) {
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            oht_state s = new_state(p);
            for (int64_t step = 1;; step++) {
                fill_state(&s, p, step);
                if (oht_checkpoint_write(folder, &cfg, p, be, &s, 2) != OHT_OK) _exit(1);
            }
        }
        while (access(checkpoint_at(1), F_OK) != 0 && access(checkpoint_at(2), F_OK) != 0) {
            int how;
            assert_int_equal(waitpid(child, &how, WNOHANG), 0);
        }
        usleep(oht_random_block(5, OHT_DRAW_TEST, k, 0, 0, 0).v[0] % 15000);
        kill(child, SIGKILL);
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how));
        oht_state s = new_state(p);
        bool found;
        OK(oht_checkpoint_read(folder, p, be, &s, true, &found));
        assert_true(found);
        assert_state(&s, p, s.step, true);
        free_state(&s);
        assert_int_equal(remove_folder(NULL), 0);
        OK(oht_make_folder(folder));
    }
    oht_params_destroy(p);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, fresh_folder, remove_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(nothing_there_is_no_error),
        TEST(all_bits_come_back),
        TEST(the_file_describes_itself),
        TEST(evaluation_needs_no_moments),
        TEST(a_damaged_one_is_skipped),
        TEST(every_flipped_bit_is_found_or_harmless),
        TEST(another_model_is_refused),
        TEST(old_ones_and_leftovers_go),
        TEST(a_state_that_is_not_finite_is_not_written),
        TEST(a_full_disk_leaves_the_good_ones),
        TEST(killed_at_any_moment_one_is_whole),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
