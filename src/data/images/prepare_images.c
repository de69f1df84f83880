// `ohtrain prepare images`: class folders -> HDF5 (include/oht/images.h). Work goes in rounds: rank 0 lists
// the folders and hands out the next BATCH names for every rank, each rank reads and decodes its files, rank
// 0 collects them in rank order and writes. So the file does not depend on the number of ranks, and memory
// holds one round, one class's names.
#include "oht/images.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "data/images/image_writer.h"
#include "oht/log.h"
#include "oht/memory.h"
#include "oht/signals.h"

enum { BATCH = 16, MOST_LISTED = 1000, MOST_SHOWN = 20, REASON = 160, MOST_PATH = 4096 };

typedef struct item { // one file of a round
    int32_t label;
    char name[256]; // in its class folder
} item;

typedef struct result {
    int64_t bytes; // -1: skipped
    char reason[REASON];
} result;

typedef struct preparation {
    oht_comm *comm;
    const oht_prepare_images *opt;
    int rank, size;
    oht_names classes; // all ranks
    // every rank: its part of a round
    oht_buffer encoded, rgb, line, small, jpeg;
    oht_resize_scratch resize;
    uint8_t *payload; // the images of its part, end to end
    size_t payload_n, payload_capacity;
    item *items; // (size, BATCH)
    result results[BATCH];
    // rank 0
    oht_image_writer writer;
    uint8_t *received;
    size_t received_capacity;
    oht_names listing, skipped;
    size_t next_class, next_name; // place in the walk through the folders
    int64_t n_skipped, done, total;
    int64_t images[2], bytes[2];
    double start_s, line_s;
} preparation;

static const char *folder_of(const preparation *p, oht_split split) {
    return split == OHT_SPLIT_TRAIN ? p->opt->train : p->opt->validation;
}

static oht_status grow(uint8_t **bytes, size_t *capacity, size_t used, size_t need) {
    if (need <= *capacity) return OHT_OK;
    size_t more = need + need / 2;
    OHT_TRY(oht_grow((void **)bytes, *bytes ? used : 0, more, 1, "images of a round"));
    *capacity = more;
    return OHT_OK;
}

// ---- one file ----

static bool skip(result *r, const char *reason) {
    r->bytes = -1;
    snprintf(r->reason, sizeof(r->reason), "%.150s", reason);
    return false;
}

// Reads the file into p->encoded; false with a reason if it is none we can take.
static oht_status read_file(preparation *p, const char *path, result *r, bool *good) {
    char reason[REASON];
    struct stat s;
    *good = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a pipe does not make us wait
    if (fd < 0 || fstat(fd, &s) != 0) {
        snprintf(reason, sizeof(reason), "cannot be opened: %s", strerror(errno));
        skip(r, reason);
    } else if (S_ISDIR(s.st_mode)) {
        skip(r, "a folder inside a class folder");
    } else if (!S_ISREG(s.st_mode)) {
        skip(r, "no ordinary file");
    } else if (s.st_size > OHT_IMAGE_MOST_BYTES) {
        snprintf(reason, sizeof(reason), "a file of %lld bytes, at most %d are taken", (long long)s.st_size,
                 OHT_IMAGE_MOST_BYTES);
        skip(r, reason);
    } else {
        oht_status status = oht_buffer_need(&p->encoded, (size_t)s.st_size);
        ssize_t n = 0, more = 1;
        while (status == OHT_OK && n < s.st_size && more > 0) {
            more = read(fd, p->encoded.data + n, (size_t)(s.st_size - n));
            if (more > 0) n += more;
        }
        if (more < 0) snprintf(reason, sizeof(reason), "cannot be read: %s", strerror(errno));
        if (status != OHT_OK) {
            close(fd);
            return status;
        }
        r->bytes = s.st_size;
        *good = n == s.st_size || skip(r, more < 0 ? reason : "became shorter while it was read");
    }
    if (fd >= 0) close(fd);
    return OHT_OK;
}

// With --resize: a smaller JPEG in p->jpeg where the short side is longer than asked for. *out, *n: what is
// kept.
static oht_status shrink(preparation *p, const oht_picture *picture, const uint8_t **out, size_t *n) {
    int64_t w = picture->width, h = picture->height, side = p->opt->resize, least = w < h ? w : h;
    if (side == 0 || least <= side) return OHT_OK;
    oht_resize to = {.width = (int)(w <= h ? side : side * w / h),
                     .height = (int)(w <= h ? side * h / w : side)};
    to.out_width = to.width;
    to.out_height = to.height;
    to.filter = OHT_FILTER_BICUBIC;
    oht_picture small = {.stride = (size_t)to.width * 3, .width = to.width, .height = to.height};
    OHT_TRY(oht_buffer_need(&p->small, small.stride * (size_t)small.height));
    OHT_TRY(oht_image_resize(picture, &to, &p->resize, p->small.data));
    small.data = p->small.data;
    OHT_TRY(oht_image_encode(&small, &p->jpeg, n));
    *out = p->jpeg.data;
    return OHT_OK;
}

static oht_status take_file(preparation *p, const char *path, result *r) {
    bool good;
    OHT_TRY(read_file(p, path, r, &good));
    if (!good) return OHT_OK;
    const uint8_t *bytes = p->encoded.data;
    size_t n = (size_t)r->bytes;
    oht_picture picture;
    oht_status status = oht_image_decode(bytes, n, &p->rgb, &p->line, &picture);
    if (status == OHT_DATA) {
        skip(r, oht_error_last()->text);
        return OHT_OK;
    }
    OHT_TRY(status);
    OHT_TRY(shrink(p, &picture, &bytes, &n));
    OHT_TRY(grow(&p->payload, &p->payload_capacity, p->payload_n, p->payload_n + n));
    memcpy(p->payload + p->payload_n, bytes, n);
    p->payload_n += n;
    r->bytes = (int64_t)n;
    return OHT_OK;
}

// This rank's part of a round.
static oht_status take_part(preparation *p, oht_split split, int64_t n) {
    p->payload_n = 0;
    for (int64_t i = 0; i < BATCH; i++) {
        int64_t k = (int64_t)p->rank * BATCH + i;
        p->results[i] = (result){0};
        if (k >= n) continue;
        OHT_TRY(oht_signals_check());
        const item *it = &p->items[k];
        char path[MOST_PATH];
        if (snprintf(path, sizeof(path), "%s/%s/%s", folder_of(p, split), p->classes.name[it->label],
                     it->name) >= MOST_PATH)
            skip(&p->results[i], "its path is too long");
        else
            OHT_TRY(take_file(p, path, &p->results[i]));
        if (p->results[i].bytes < 0 && p->opt->strict)
            OHT_FAIL(OHT_DATA, "%s: %s\nfix: repair or remove it, or leave --strict out", path,
                     p->results[i].reason);
    }
    return OHT_OK;
}

// ---- rank 0: the walk, the file ----

static oht_status note_skipped(preparation *p, const char *folder, const char *class, const char *name,
                               const char *reason) {
    char text[MOST_PATH];
    snprintf(text, sizeof(text), "%s/%s%s%s: %s", folder, class, *class ? "/" : "", name, reason);
    p->n_skipped++;
    if (p->n_skipped <= MOST_SHOWN) oht_warn("skipped %s", text);
    if (p->skipped.n >= MOST_LISTED) return OHT_OK;
    OHT_TRY(OHT_RESERVE(&p->skipped.name, &p->skipped.capacity, p->skipped.n, "list of skipped files"));
    OHT_TRY(oht_strdup(&p->skipped.name[p->skipped.n], text));
    p->skipped.n++;
    return OHT_OK;
}

static const char *split_name(oht_split split) {
    return split == OHT_SPLIT_TRAIN ? "train" : "validation";
}

// Files that lie beside the class folders.
static oht_status look_beside(preparation *p, oht_split split) {
    oht_names names;
    OHT_TRY(oht_names_list(folder_of(p, split), false, &names));
    oht_status status = OHT_OK;
    if (names.n > 0 && p->opt->strict)
        status = oht_error_set(OHT_DATA, __FILE__, __LINE__,
                               "%s/%s: not in a class folder\nfix: move or remove it, or leave --strict out",
                               folder_of(p, split), names.name[0]);
    for (size_t i = 0; i < names.n && status == OHT_OK; i++)
        status = note_skipped(p, split_name(split), "", names.name[i], "not in a class folder");
    oht_names_free(&names);
    return status;
}

// What is in a class folder: folders, which will be refused, then all else. *folders: how many come first.
static oht_status list_folder(const char *path, oht_names *out, size_t *folders) {
    oht_names files;
    OHT_TRY(oht_names_list(path, true, out));
    *folders = out->n;
    oht_status status = oht_names_list(path, false, &files);
    for (size_t i = 0; i < files.n && status == OHT_OK; i++) {
        status = OHT_RESERVE(&out->name, &out->capacity, out->n, "file names");
        if (status != OHT_OK) break;
        out->name[out->n++] = files.name[i];
        files.name[i] = NULL; // moved
    }
    oht_names_free(&files);
    if (status != OHT_OK) oht_names_free(out);
    return status;
}

// Takes the next class. Folders inside are handed out like files, so that the order of what is skipped does not depend on the
// number of ranks.
static oht_status list_class(preparation *p, oht_split split) {
    char path[MOST_PATH];
    size_t folders;
    oht_names_free(&p->listing);
    p->next_name = 0;
    snprintf(path, sizeof(path), "%s/%s", folder_of(p, split), p->classes.name[p->next_class]);
    if (split == OHT_SPLIT_VALIDATION && access(path, F_OK) != 0 && errno == ENOENT) return OHT_OK; // it may lack a class
    OHT_TRY(list_folder(path, &p->listing, &folders));
    if (folders > 0 && p->opt->strict)
        OHT_FAIL(OHT_DATA, "%s/%s: a folder inside a class folder\nfix: move or remove it, or leave --strict out", path,
                 p->listing.name[0]);
    return OHT_OK;
}

// Names for the next round; *n = 0 at the end.
static oht_status hand_out(preparation *p, oht_split split, int64_t *n) {
    for (*n = 0; *n < (int64_t)p->size * BATCH;) {
        if (p->next_name == p->listing.n) {
            if (p->next_class == p->classes.n) return OHT_OK;
            OHT_TRY(list_class(p, split));
            p->next_class++;
            continue;
        }
        item *it = &p->items[(*n)++];
        *it = (item){.label = (int32_t)(p->next_class - 1)};
        snprintf(it->name, sizeof(it->name), "%s", p->listing.name[p->next_name++]);
    }
    return OHT_OK;
}

static oht_status write_part(preparation *p, oht_split split, const item *items, const result *results,
                             const uint8_t *bytes) {
    for (int i = 0; i < BATCH; i++) {
        if (results[i].bytes < 0)
            OHT_TRY(note_skipped(p, split_name(split), p->classes.name[items[i].label], items[i].name,
                                 results[i].reason));
        if (results[i].bytes <= 0) continue;
        OHT_TRY(oht_image_writer_add(&p->writer, items[i].label, bytes, results[i].bytes));
        bytes += results[i].bytes;
    }
    return OHT_OK;
}

// Moves rank r's part to rank 0's file. Rank 0 goes on receiving when it cannot write, so that nobody waits
// for ever.
static oht_status collect(preparation *p, oht_split split, int r, oht_status *written) {
    if (p->rank != 0 && p->rank != r) return OHT_OK;
    if (r == 0) {
        if (*written == OHT_OK) *written = write_part(p, split, p->items, p->results, p->payload);
        return OHT_OK;
    }
    if (p->rank == r) {
        OHT_TRY(oht_send(p->comm, p->results, sizeof(p->results), 0));
        return oht_send(p->comm, p->payload, p->payload_n, 0);
    }
    result results[BATCH];
    OHT_TRY(oht_receive(p->comm, results, sizeof(results), r));
    size_t n = 0;
    for (int i = 0; i < BATCH; i++) n += results[i].bytes > 0 ? (size_t)results[i].bytes : 0;
    OHT_TRY(grow(&p->received, &p->received_capacity, 0, n));
    OHT_TRY(oht_receive(p->comm, p->received, n, r));
    if (*written == OHT_OK) *written = write_part(p, split, p->items + r * BATCH, results, p->received);
    return OHT_OK;
}

static void show_progress(preparation *p) {
    double now = oht_clock_s();
    bool line = now - p->line_s > 10.0; // a plain line every 10 s where no terminal watches
    if (line) p->line_s = now;
    oht_progress(p->done, p->total, line, "files, %.0f/s, %lld skipped",
                 (double)p->done / (now - p->start_s + 1e-9), (long long)p->n_skipped);
}

// ---- a split ----

static oht_status end_split(preparation *p, oht_split split) {
    OHT_TRY(oht_image_writer_end(&p->writer));
    p->images[split] = p->writer.images;
    p->bytes[split] = p->writer.total;
    if (p->writer.images == 0)
        OHT_FAIL(
            OHT_DATA,
            "%s: not one image in its %zu class folders (%lld files skipped)\nfix: name a folder that holds "
            "one folder of JPEG or PNG files for each class",
            folder_of(p, split), p->classes.n, (long long)p->n_skipped);
    return OHT_OK;
}

static oht_status start_split(preparation *p, oht_split split) {
    OHT_TRY(look_beside(p, split));
    oht_names_free(&p->listing);
    p->next_class = p->next_name = 0;
    return oht_image_writer_start(&p->writer, split);
}

static oht_status prepare_split(preparation *p, oht_split split) {
    if (!folder_of(p, split)) return OHT_OK;
    oht_status status = p->rank == 0 ? start_split(p, split) : OHT_OK;
    for (;;) {
        int64_t n = 0;
        if (p->rank == 0 && status == OHT_OK) status = hand_out(p, split, &n);
        OHT_TRY(oht_agree(p->comm, status));
        OHT_TRY(oht_broadcast(p->comm, &n, sizeof(n), 0));
        if (n == 0) break;
        OHT_TRY(oht_broadcast(p->comm, p->items, (size_t)n * sizeof(*p->items), 0));
        OHT_TRY(oht_agree(p->comm, take_part(p, split, n)));
        for (int r = 0; r < p->size && (int64_t)r * BATCH < n; r++) OHT_TRY(collect(p, split, r, &status));
        p->done += n;
        if (p->rank == 0) show_progress(p);
    }
    return oht_agree(p->comm, p->rank == 0 ? end_split(p, split) : OHT_OK);
}

// ---- start and end ----

// The class folders of the training split (of validation where that is all), and that validation knows no
// others.
static oht_status find_classes(preparation *p) {
    const char *folder = p->opt->train ? p->opt->train : p->opt->validation;
    OHT_TRY(oht_names_list(folder, true, &p->classes));
    if (p->classes.n == 0)
        OHT_FAIL(OHT_DATA,
                 "%s: no folders in it\nfix: name a folder that holds one folder of JPEG or PNG files for "
                 "each class",
                 folder);
    if (!p->opt->train || !p->opt->validation) return OHT_OK;
    oht_names others;
    OHT_TRY(oht_names_list(p->opt->validation, true, &others));
    oht_status status = OHT_OK;
    for (size_t i = 0, k = 0; i < others.n && status == OHT_OK; i++) { // both are sorted
        while (k < p->classes.n && strcmp(p->classes.name[k], others.name[i]) < 0) k++;
        if (k == p->classes.n || strcmp(p->classes.name[k], others.name[i]) != 0)
            status = oht_error_set(OHT_DATA, __FILE__, __LINE__,
                                   "%s: class folder %s is not in %s\nfix: both need the same names",
                                   p->opt->validation, others.name[i], p->opt->train);
    }
    oht_names_free(&others);
    return status;
}

static oht_status count_files(preparation *p, oht_split split) {
    for (size_t i = 0; folder_of(p, split) && i < p->classes.n; i++) {
        char path[MOST_PATH];
        oht_names names;
        size_t folders;
        snprintf(path, sizeof(path), "%s/%s", folder_of(p, split), p->classes.name[i]);
        if (access(path, F_OK) != 0 && errno == ENOENT) continue;
        OHT_TRY(oht_signals_check());
        OHT_TRY(list_folder(path, &names, &folders));
        p->total += (int64_t)names.n;
        oht_names_free(&names);
    }
    return OHT_OK;
}

static oht_status start(preparation *p) {
    const oht_prepare_images *opt = p->opt;
    oht_h5_silence();
    if (!opt->train && !opt->validation)
        OHT_FAIL(OHT_CONFIG, "no input folder\nfix: --train DIR --validation DIR");
    if (opt->resize < 0 || opt->resize > OHT_IMAGE_MOST_SIDE)
        OHT_FAIL(OHT_CONFIG, "--resize is %lld, expected 1 to %d pixels", (long long)opt->resize,
                 OHT_IMAGE_MOST_SIDE);
    OHT_TRY(OHT_ALLOC(&p->items, (size_t)p->size * BATCH, "files of a round"));
    if (p->rank != 0) return OHT_OK;
    struct stat out;
    if (stat(opt->out, &out) == 0 && S_ISDIR(out.st_mode))
        OHT_FAIL(OHT_CONFIG, "-o %s: is a folder, expected a file name", opt->out);
    OHT_TRY(find_classes(p));
    OHT_TRY(count_files(p, OHT_SPLIT_TRAIN));
    OHT_TRY(count_files(p, OHT_SPLIT_VALIDATION));
    return oht_image_writer_open(&p->writer, opt->out);
}

// All ranks learn the class names.
static oht_status share_classes(preparation *p) {
    int64_t n = (int64_t)p->classes.n;
    OHT_TRY(oht_broadcast(p->comm, &n, sizeof(n), 0));
    for (int64_t i = 0; i < n; i++) {
        char name[256] = "";
        if (p->rank == 0) snprintf(name, sizeof(name), "%s", p->classes.name[i]);
        OHT_TRY(oht_broadcast(p->comm, name, sizeof(name), 0));
        if (p->rank == 0) continue;
        oht_names *c = &p->classes;
        OHT_TRY(OHT_RESERVE(&c->name, &c->capacity, c->n, "class names"));
        OHT_TRY(oht_strdup(&c->name[c->n], name));
        c->n++;
    }
    return OHT_OK;
}

static oht_status finish(preparation *p) {
    json_t *json =
        json_pack("{s:s, s:b, s:b, s:I}", "command", "prepare images", "train", p->opt->train != NULL,
                  "validation", p->opt->validation != NULL, "resize", (json_int_t)p->opt->resize);
    char *text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
    json_decref(json);
    if (!text) OHT_FAIL(OHT_MEMORY, "the options cannot be written as text");
    oht_status status = oht_image_writer_finish(&p->writer, &p->classes, &p->skipped, text);
    free(text);
    return status;
}

static void report(const preparation *p) {
    double seconds = oht_clock_s() - p->start_s;
    for (int s = 0; s < 2; s++)
        if (p->images[s] > 0)
            oht_log("%s: %s: %lld images, %.1f MB, %zu classes", p->opt->out, split_name((oht_split)s),
                    (long long)p->images[s], (double)p->bytes[s] / 1e6, p->classes.n);
    if (p->n_skipped > 0)
        oht_warn("%lld files were skipped%s; the file lists %zu of them under /skipped",
                 (long long)p->n_skipped, p->n_skipped > MOST_SHOWN ? ", the first shown above" : "",
                 p->skipped.n);
    oht_log("%lld files in %.1f s, %.0f/s", (long long)p->done, seconds,
            (double)p->done / (seconds > 1e-9 ? seconds : 1e-9));
}

static void free_all(preparation *p) {
    oht_buffer *const buffer[] = {&p->encoded, &p->rgb, &p->line, &p->small, &p->jpeg};
    for (size_t i = 0; i < sizeof(buffer) / sizeof(*buffer); i++) oht_buffer_free(buffer[i]);
    oht_resize_scratch_free(&p->resize);
    oht_image_writer_close(&p->writer);
    oht_names_free(&p->classes);
    oht_names_free(&p->listing);
    oht_names_free(&p->skipped);
    oht_free(p->payload);
    oht_free(p->received);
    oht_free(p->items);
}

oht_status oht_prepare_images_run(oht_comm *comm, const oht_prepare_images *opt) {
    preparation *p = NULL;
    oht_status status = oht_agree(comm, OHT_ALLOC(&p, 1, "preparation"));
    if (status != OHT_OK) return status; // a rank that has it ends with the others
    p->comm = comm;
    p->opt = opt;
    p->rank = oht_comm_rank(comm);
    p->size = oht_comm_size(comm);
    p->start_s = p->line_s = oht_clock_s();
    status = oht_agree(comm, start(p));
    if (status == OHT_OK) status = share_classes(p);
    if (status == OHT_OK) status = prepare_split(p, OHT_SPLIT_TRAIN);
    if (status == OHT_OK) status = prepare_split(p, OHT_SPLIT_VALIDATION);
    if (status == OHT_OK) status = oht_agree(comm, p->rank == 0 ? finish(p) : OHT_OK);
    oht_progress_end();
    if (status == OHT_OK && p->rank == 0) report(p);
    free_all(p);
    oht_free(p);
    return status;
}
