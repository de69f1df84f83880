// Encoded bytes -> RGB pixels, equal to Pillow's Image.open(f).convert("RGB"): libjpeg-turbo with its
// defaults (accurate IDCT, smooth chroma upsampling), libpng. What that means for the odd ones: EXIF
// orientation is not applied; CMYK is read as Adobe writes it, inverted; alpha and transparency are dropped,
// not blended; of 16 bits the high byte counts, but in pure grey values are clipped at 255; a JPEG whose data
// are damaged but complete is decoded as far as it goes.
//
// Bytes are hostile: the declared size is checked against limits and against the number of bytes there are
// before any memory is taken; both libraries report errors by longjmp to the one setjmp of their function
// here.
#include "data/images/images.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>
#include <png.h>

#include "oht/memory.h"

enum {
    MOST_SCANS = 200, // of a progressive JPEG; encoders write about 10
    JPEG_PIXELS_A_BYTE = 512, // at least a bit for a block of 8 x 8 of the only component
    PNG_BYTES_A_BYTE = 1040 // deflate shrinks at most 1032 times
};

oht_status oht_buffer_need(oht_buffer *buffer, size_t bytes) {
    if (buffer->data && bytes <= buffer->capacity) return OHT_OK;
    oht_buffer_free(buffer);
    OHT_TRY(OHT_ALLOC(&buffer->data, bytes + OHT_IMAGE_SLACK, "image"));
    buffer->capacity = bytes;
    return OHT_OK;
}

void oht_buffer_free(oht_buffer *buffer) {
    oht_free(buffer->data);
    *buffer = (oht_buffer){0};
}

static oht_status check_size(const char *kind, uint64_t width, uint64_t height) {
    if (width < 1 || height < 1 || width > OHT_IMAGE_MOST_SIDE || height > OHT_IMAGE_MOST_SIDE ||
        width * height > OHT_IMAGE_MOST_PIXELS)
        OHT_FAIL(OHT_DATA, "%s of %llu x %llu pixels, expected sides of 1 to %d and at most %d pixels", kind,
                 (unsigned long long)width, (unsigned long long)height, OHT_IMAGE_MOST_SIDE,
                 OHT_IMAGE_MOST_PIXELS);
    return OHT_OK;
}

static bool is_jpeg(const uint8_t *bytes, size_t n) {
    return n >= 3 && bytes[0] == 0xff && bytes[1] == 0xd8 && bytes[2] == 0xff;
}

static bool is_png(const uint8_t *bytes, size_t n) {
    return n >= 8 && png_sig_cmp(bytes, 0, 8) == 0;
}

// ---- JPEG ----

typedef struct jpeg_reader {
    struct jpeg_error_mgr error; // first: libjpeg hands this address back
    jmp_buf failed;
    char message[JMSG_LENGTH_MAX];
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    struct jpeg_decompress_struct jpeg;
    bool made;
} jpeg_reader;

static _Noreturn void jpeg_fail(j_common_ptr jpeg) {
    jpeg_reader *r = (jpeg_reader *)jpeg->err;
    r->error.format_message(jpeg, r->message);
    longjmp(r->failed, 1);
}

static _Noreturn void jpeg_fail_with(j_common_ptr jpeg, const char *message) {
    jpeg_reader *r = (jpeg_reader *)jpeg->err;
    snprintf(r->message, sizeof(r->message), "%s", message);
    longjmp(r->failed, 1);
}

static void jpeg_warn(j_common_ptr jpeg, int level) {
    (void)jpeg, (void)level; // damaged data are decoded as far as they go, as Pillow does
}

static void jpeg_no_source(j_decompress_ptr jpeg) {
    (void)jpeg;
}

static boolean jpeg_no_more(j_decompress_ptr jpeg) {
    jpeg_fail_with((j_common_ptr)jpeg, "the file ends too early");
}

static void jpeg_skip(j_decompress_ptr jpeg, long n) {
    if (n <= 0) return;
    if ((size_t)n > jpeg->src->bytes_in_buffer) (void)jpeg_no_more(jpeg);
    jpeg->src->next_input_byte += n;
    jpeg->src->bytes_in_buffer -= (size_t)n;
}

static void jpeg_watch(j_common_ptr common) {
    const struct jpeg_decompress_struct *jpeg = (const struct jpeg_decompress_struct *)common;
    if (jpeg->input_scan_number > MOST_SCANS) jpeg_fail_with(common, "more scans than any encoder writes");
}

// Reads the header: from here on width, height, components are known.
static void jpeg_start(jpeg_reader *r, const uint8_t *bytes, size_t n) {
    r->jpeg.err = jpeg_std_error(&r->error);
    r->error.error_exit = jpeg_fail;
    r->error.emit_message = jpeg_warn;
    jpeg_create_decompress(&r->jpeg);
    r->made = true;
    r->source = (struct jpeg_source_mgr){.next_input_byte = bytes,
                                         .bytes_in_buffer = n,
                                         .init_source = jpeg_no_source,
                                         .fill_input_buffer = jpeg_no_more,
                                         .skip_input_data = jpeg_skip,
                                         .resync_to_restart = jpeg_resync_to_restart,
                                         .term_source = jpeg_no_source};
    r->jpeg.src = &r->source;
    r->progress.progress_monitor = jpeg_watch;
    r->jpeg.progress = &r->progress;
    jpeg_read_header(&r->jpeg, TRUE);
}

static oht_status jpeg_check(const jpeg_reader *r, size_t n) {
    uint64_t width = r->jpeg.image_width, height = r->jpeg.image_height;
    OHT_TRY(check_size("JPEG", width, height));
    int components = r->jpeg.num_components;
    if (components != 1 && components != 3 && components != 4)
        OHT_FAIL(OHT_DATA, "JPEG of %d components, expected 1, 3 or 4", components);
    if (!r->jpeg.arith_code && width * height > (uint64_t)n * JPEG_PIXELS_A_BYTE)
        OHT_FAIL(OHT_DATA, "JPEG of %llu x %llu pixels in %zu bytes: truncated, or made to exhaust memory",
                 (unsigned long long)width, (unsigned long long)height, n);
    return OHT_OK;
}

static unsigned times_255(unsigned a, unsigned b) { // round(a b / 255)
    unsigned t = a * b + 128;
    return ((t >> 8) + t) >> 8;
}

// A row of inverted CMYK: what libjpeg calls 255 is no ink.
static void row_from_cmyk(uint8_t *out, const uint8_t *in, int width) {
    for (int x = 0; x < width; x++, in += 4, out += 3)
        for (int c = 0; c < 3; c++) out[c] = (uint8_t)(in[3] - times_255(255u - in[c], in[3]));
}

static void jpeg_rows(jpeg_reader *r, uint8_t *rgb, uint8_t *line) {
    struct jpeg_decompress_struct *jpeg = &r->jpeg;
    bool cmyk = jpeg->num_components == 4;
    jpeg->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(jpeg);
    size_t stride = (size_t)jpeg->output_width * 3;
    while (jpeg->output_scanline < jpeg->output_height) {
        uint8_t *out = rgb + jpeg->output_scanline * stride, *row = cmyk ? line : out;
        if (jpeg_read_scanlines(jpeg, &row, 1) == 1 && cmyk)
            row_from_cmyk(out, line, (int)jpeg->output_width);
    }
    jpeg_finish_decompress(jpeg);
}

// Has the setjmp; whatever changes after it lives outside, in *r and *out.
static oht_status run_jpeg(jpeg_reader *r, const uint8_t *bytes, size_t n, oht_buffer *rgb, oht_buffer *line,
                           oht_picture *out) {
    if (setjmp(r->failed) != 0) OHT_FAIL(OHT_DATA, "JPEG: %s", r->message);
    jpeg_start(r, bytes, n);
    OHT_TRY(jpeg_check(r, n));
    *out = (oht_picture){.stride = (size_t)r->jpeg.image_width * 3,
                         .width = (int)r->jpeg.image_width,
                         .height = (int)r->jpeg.image_height};
    if (!rgb) return OHT_OK;
    OHT_TRY(oht_buffer_need(rgb, out->stride * (size_t)out->height));
    OHT_TRY(oht_buffer_need(line, (size_t)out->width * 4));
    out->data = rgb->data;
    jpeg_rows(r, rgb->data, line->data);
    return OHT_OK;
}

static oht_status decode_jpeg(const uint8_t *bytes, size_t n, oht_buffer *rgb, oht_buffer *line,
                              oht_picture *out) {
    jpeg_reader r = {.made = false};
    oht_status status = run_jpeg(&r, bytes, n, rgb, line, out);
    if (r.made) jpeg_destroy_decompress(&r.jpeg);
    return status;
}

// ---- PNG ----

typedef struct png_reader {
    png_structp png;
    png_infop info;
    jmp_buf failed;
    const uint8_t *bytes;
    size_t left;
    char message[160];
} png_reader;

static _Noreturn void png_fail(png_structp png, png_const_charp message) {
    png_reader *r = png_get_error_ptr(png);
    snprintf(r->message, sizeof(r->message), "%s", message);
    longjmp(r->failed, 1);
}

static void png_ignore(png_structp png, png_const_charp message) {
    (void)png, (void)message;
}

static void png_take(png_structp png, png_bytep out, size_t n) {
    png_reader *r = png_get_io_ptr(png);
    if (n > r->left) png_error(png, "the file ends too early");
    memcpy(out, r->bytes, n);
    r->bytes += n;
    r->left -= n;
}

// Reads up to the pixels. Only the chunks that shape the pixels are looked at: no text to decompress, no
// profiles, no gamma, and no tRNS, so that transparency is dropped.
static void png_start(png_reader *r) {
    static const png_byte ignored[] =
        "bKGD\0cHRM\0gAMA\0hIST\0iCCP\0iTXt\0oFFs\0pCAL\0pHYs\0sBIT\0sCAL\0sPLT\0"
        "sRGB\0tEXt\0tIME\0tRNS\0zTXt\0eXIf";
    r->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, r, png_fail, png_ignore);
    if (r->png) r->info = png_create_info_struct(r->png);
    if (!r->info) {
        snprintf(r->message, sizeof(r->message), "no memory");
        longjmp(r->failed, 1);
    }
    png_set_read_fn(r->png, r, png_take);
    png_set_user_limits(r->png, OHT_IMAGE_MOST_SIDE, OHT_IMAGE_MOST_SIDE);
    png_set_chunk_malloc_max(r->png, 8 << 20);
    png_set_chunk_cache_max(r->png, 128);
    png_set_keep_unknown_chunks(r->png, PNG_HANDLE_CHUNK_NEVER, ignored, sizeof(ignored) / 5);
    png_read_info(r->png, r->info);
}

static oht_status png_check(const png_reader *r, size_t n) {
    uint64_t width = png_get_image_width(r->png, r->info), height = png_get_image_height(r->png, r->info);
    OHT_TRY(check_size("PNG", width, height));
    if ((png_get_rowbytes(r->png, r->info) + 1) * height / PNG_BYTES_A_BYTE > n)
        OHT_FAIL(OHT_DATA, "PNG of %llu x %llu pixels in %zu bytes: truncated, or made to exhaust memory",
                 (unsigned long long)width, (unsigned long long)height, n);
    return OHT_OK;
}

static bool png_grey16(const png_reader *r) {
    return png_get_bit_depth(r->png, r->info) == 16 &&
           png_get_color_type(r->png, r->info) == PNG_COLOR_TYPE_GRAY;
}

// In place, from the right: 2 bytes big-endian -> 3 equal ones.
static void row_from_grey16(uint8_t *row, int width) {
    for (int x = width - 1; x >= 0; x--) {
        uint8_t v = row[2 * x] ? 255 : row[2 * x + 1];
        row[3 * x] = row[3 * x + 1] = row[3 * x + 2] = v;
    }
}

static void png_rows(png_reader *r, uint8_t *rgb, int width, int height) {
    bool grey16 = png_grey16(r);
    if (!grey16) {
        png_set_palette_to_rgb(r->png);
        png_set_expand_gray_1_2_4_to_8(r->png);
        png_set_strip_16(r->png);
        png_set_strip_alpha(r->png);
        png_set_gray_to_rgb(r->png);
    }
    int passes = png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->info);
    size_t stride = (size_t)width * 3;
    if (png_get_rowbytes(r->png, r->info) != (grey16 ? (size_t)width * 2 : stride))
        png_error(r->png, "odd kind of pixels");
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < height; y++) png_read_row(r->png, rgb + (size_t)y * stride, NULL);
    for (int y = 0; y < height && grey16; y++) row_from_grey16(rgb + (size_t)y * stride, width);
}

static oht_status run_png(png_reader *r, size_t n, oht_buffer *rgb, oht_picture *out) {
    if (setjmp(r->failed) != 0) OHT_FAIL(OHT_DATA, "PNG: %s", r->message);
    png_start(r);
    OHT_TRY(png_check(r, n));
    *out = (oht_picture){.width = (int)png_get_image_width(r->png, r->info),
                         .height = (int)png_get_image_height(r->png, r->info)};
    out->stride = (size_t)out->width * 3;
    if (!rgb) return OHT_OK;
    OHT_TRY(oht_buffer_need(rgb, out->stride * (size_t)out->height));
    out->data = rgb->data;
    png_rows(r, rgb->data, out->width, out->height);
    return OHT_OK;
}

static oht_status decode_png(const uint8_t *bytes, size_t n, oht_buffer *rgb, oht_picture *out) {
    png_reader r = {.bytes = bytes, .left = n};
    oht_status status = run_png(&r, n, rgb, out);
    png_destroy_read_struct(&r.png, &r.info, NULL);
    return status;
}

// ---- either ----

static oht_status read_any(const uint8_t *bytes, size_t n, oht_buffer *rgb, oht_buffer *line,
                           oht_picture *out) {
    *out = (oht_picture){0};
    if (is_jpeg(bytes, n)) return decode_jpeg(bytes, n, rgb, line, out);
    if (is_png(bytes, n)) return decode_png(bytes, n, rgb, out);
    OHT_FAIL(OHT_DATA, n == 0 ? "an empty file" : "neither JPEG nor PNG");
}

oht_status oht_image_decode(const uint8_t *bytes, size_t n, oht_buffer *rgb, oht_buffer *line,
                            oht_picture *out) {
    return read_any(bytes, n, rgb, line, out);
}

oht_status oht_image_dimensions(const uint8_t *bytes, size_t n, int *width, int *height) {
    oht_picture picture;
    oht_status status = read_any(bytes, n, NULL, NULL, &picture);
    *width = picture.width;
    *height = picture.height;
    return status;
}
