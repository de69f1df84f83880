// Names in a folder, sorted by their bytes, so that every machine and file system gives the same order.
#include "data/images/images.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "oht/memory.h"

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_folder(DIR *dir, const struct dirent *entry) {
    if (entry->d_type == DT_DIR) return true;
    if (entry->d_type != DT_LNK && entry->d_type != DT_UNKNOWN) return false;
    struct stat s;
    return fstatat(dirfd(dir), entry->d_name, &s, 0) == 0 && S_ISDIR(s.st_mode);
}

static oht_status add(oht_names *out, const char *name) {
    OHT_TRY(OHT_RESERVE(&out->name, &out->capacity, out->n, "file names"));
    OHT_TRY(oht_strdup(&out->name[out->n], name));
    out->n++;
    return OHT_OK;
}

oht_status oht_names_list(const char *folder, bool folders, oht_names *out) {
    *out = (oht_names){0};
    DIR *dir = opendir(folder);
    if (!dir)
        OHT_FAIL(OHT_IO, "cannot open the folder %s: %s\nfix: name a folder of class folders", folder,
                 strerror(errno));
    oht_status status = OHT_OK;
    errno = 0;
    for (const struct dirent *entry; status == OHT_OK && (entry = readdir(dir)); errno = 0) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (is_folder(dir, entry) == folders) status = add(out, entry->d_name);
    }
    int failed = status == OHT_OK ? errno : 0;
    closedir(dir);
    if (failed)
        status = oht_error_set(OHT_IO, __FILE__, __LINE__, "cannot list the folder %s: %s", folder,
                               strerror(failed));
    if (status == OHT_OK && out->n > 1) qsort(out->name, out->n, sizeof(*out->name), by_bytes);
    if (status != OHT_OK) oht_names_free(out);
    return status;
}

void oht_names_free(oht_names *names) {
    for (size_t i = 0; i < names->n; i++) oht_free(names->name[i]);
    oht_free(names->name);
    *names = (oht_names){0};
}
