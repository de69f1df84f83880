// RGB pixels -> JPEG, for `ohtrain prepare images --resize`: quality 95, chroma 4:2:0, no markers that vary,
// so that the same pixels give the same bytes.
#include "data/images/images.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

enum { QUALITY = 95 };

typedef struct writer {
    struct jpeg_error_mgr error; // first: libjpeg hands this address back
    jmp_buf failed;
    char message[JMSG_LENGTH_MAX];
    struct jpeg_destination_mgr target;
    struct jpeg_compress_struct jpeg;
    bool made;
} writer;

static _Noreturn void fail(j_common_ptr jpeg) {
    writer *w = (writer *)jpeg->err;
    w->error.format_message(jpeg, w->message);
    longjmp(w->failed, 1);
}

static void silent(j_common_ptr jpeg, int level) {
    (void)jpeg, (void)level;
}

static void no_target(j_compress_ptr jpeg) {
    (void)jpeg;
}

static boolean full(j_compress_ptr jpeg) {
    writer *w = (writer *)jpeg->err;
    snprintf(w->message, sizeof(w->message), "no room for the JPEG");
    longjmp(w->failed, 1);
}

// *n: bytes used. Has the setjmp; whatever changes after it lives outside.
static oht_status run(writer *w, const oht_picture *picture, const oht_buffer *out, size_t *n) {
    if (setjmp(w->failed) != 0) OHT_FAIL(OHT_INTERNAL, "JPEG: %s", w->message);
    w->jpeg.err = jpeg_std_error(&w->error);
    w->error.error_exit = fail;
    w->error.emit_message = silent;
    jpeg_create_compress(&w->jpeg);
    w->made = true;
    w->target = (struct jpeg_destination_mgr){.next_output_byte = out->data,
                                              .free_in_buffer = out->capacity,
                                              .init_destination = no_target,
                                              .empty_output_buffer = full,
                                              .term_destination = no_target};
    w->jpeg.dest = &w->target;
    w->jpeg.image_width = (JDIMENSION)picture->width;
    w->jpeg.image_height = (JDIMENSION)picture->height;
    w->jpeg.input_components = 3;
    w->jpeg.in_color_space = JCS_RGB;
    jpeg_set_defaults(&w->jpeg);
    jpeg_set_quality(&w->jpeg, QUALITY, TRUE);
    jpeg_start_compress(&w->jpeg, TRUE);
    while (w->jpeg.next_scanline < w->jpeg.image_height) {
        JSAMPROW row = (JSAMPROW)(uintptr_t)oht_picture_row(picture, (int)w->jpeg.next_scanline);
        jpeg_write_scanlines(&w->jpeg, &row, 1);
    }
    jpeg_finish_compress(&w->jpeg);
    *n = out->capacity - w->target.free_in_buffer;
    return OHT_OK;
}

oht_status oht_image_encode(const oht_picture *picture, oht_buffer *out, size_t *n) {
    // Above what any block can take: 64 coefficients of at most 26 bits, every second byte stuffed at worst.
    size_t across = ((size_t)picture->width + 15) / 16 * 16, down = ((size_t)picture->height + 15) / 16 * 16;
    OHT_TRY(oht_buffer_need(out, across * down * 8 + 4096));
    writer w = {.made = false};
    oht_status status = run(&w, picture, out, n);
    if (w.made) jpeg_destroy_compress(&w.jpeg);
    return status;
}
