// What a model learns from: its task, and the arrays a micro-batch consists of. Shared by data sources, which
// fill the fields, and by graphs, which declare them as inputs.
#pragma once

typedef enum oht_task {
    OHT_TASK_CLM, // text: the next token (OPT)
    OHT_TASK_MLM, // text: masked tokens (BERT)
    OHT_TASK_IMAGES, // images: their class (ViT)
    OHT_TASK_SERIES // time series: what follows (STanHop-Net)
} oht_task;

// B samples, T tokens, S side of an image.
typedef enum oht_field {
    OHT_FIELD_TOKENS, // (B,T) i32
    OHT_FIELD_MASK, // (B,T) u8, 1 = real token; present only for padded data
    OHT_FIELD_LABELS, // CLM: (B,T) i32 next token or -1; MLM: (picked) i32 original token; images in
                      // evaluation: (B) i32
    OHT_FIELD_POSITIONS, // MLM: (picked) i32, index into B*T
    OHT_FIELD_IMAGES, // (B,S,S,3) u8, rows top to bottom, R G B interleaved
    OHT_FIELD_TARGETS, // images in training: (B,classes) f32, probabilities; series: (B,horizon,series) f32
    OHT_FIELD_SERIES, // (B,input,series) f32
    OHT_FIELD_COUNT
} oht_field;
