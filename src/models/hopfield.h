// Hopfield layers as modules for models of grouped rows (spec stanhop 1): queries (B,G,L,C), stored patterns (B,G,S,C).
//
//   OutEffHop         state and stored patterns are given                     hopfield_record
//   OutEffHopLayer    stored patterns are learned, the state is given         hopfield_layer_record
//   OutEffHopPooling  states are learned, the stored patterns are given       hopfield_pooling_record
//
// (STanHop-Net's "HopfieldPooling" is the second of these.) With `connected`, values are a projection of the projected keys.
#pragma once

#include "models/parts.h"

typedef struct hopfield_style {
    int64_t width;
    oht_hopfield assoc;    // f, heads, mix, alpha; beta = (width / heads)^-1/2 when it is 0
    double clip_alpha;     // clipped forms: gamma = -clip_alpha / S for S stored patterns; 0 = assoc's gamma
    oht_gate gate;         // on each head's result, before the heads are mixed
    double gate_init;
    float dropout;         // on P
    int64_t patterns;      // learned ones; 0 = none
    bool learned_states;   // they are states (OutEffHopPooling), else stored patterns (OutEffHopLayer)
    bool connected;        // V = (K) W_V, else V = Y W_V
    bool static_query, static_key, static_value, static_out; // the identity instead of a projection
    int steps;             // retrievals q <- P K before the last association,
    double eps;            // at most: a head stops where P changes by no more than eps; 0 = all of them
} hopfield_style;

typedef struct hopfield_params {
    int patterns, alpha; // -1 = none
    linear_params q, k, v, out;
    int gate[2];
} hopfield_params;

// Quantization sites, named below the scope: q, k, v, scores, probs, context (after gate and mix), out; weights and patterns.
// What taps look at; OHT_NONE where the layer has no such tensor.
typedef struct hopfield_inner {
    oht_value q, k, v, probs, heads; // heads: before gate and output projection
    oht_value gate;
} hopfield_inner;

void hopfield_register(registrar *r, const hopfield_style *style, hopfield_params *out);
// inner may be NULL.
oht_value hopfield_record(oht_graph *g, const hopfield_style *style, const hopfield_params *p, oht_value state,
                          oht_value stored, hopfield_inner *inner);
oht_value hopfield_layer_record(oht_graph *g, const hopfield_style *style, const hopfield_params *p, oht_value state,
                                hopfield_inner *inner);
// stored: (B,1,S,C); the result is (B,1,patterns,C).
oht_value hopfield_pooling_record(oht_graph *g, const hopfield_style *style, const hopfield_params *p, oht_value stored,
                                  hopfield_inner *inner);
