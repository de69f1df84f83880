// Small transformers for tests of models as tables and as recordings.
#pragma once

#include "oht/model.h"

// Three blocks of width 24, three heads, softmax_1; BERT with norms behind, the others with norms in front.
oht_model_config small_model(oht_model_type type);
oht_model *create_model(const oht_model_config *cfg); // must succeed
