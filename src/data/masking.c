// Masked-language-model inputs (spec transformers 3.1): every token that is not special is selected with
// probability p, independently; of the selected 80 % become [MASK], 10 % a random id, 10 % stay. The label is
// the old id.
//
// Special are [CLS], [SEP], [PAD] and [MASK]. [UNK] is an ordinary token: the reference keeps the
// special_tokens_mask that the tokenizer makes, which marks what the tokenizer added. There is no minimum: a
// short row may have nothing to predict.
//
// Draws: purpose MASK; in training key = seed, step = optimizer step, sample = place in the global batch; in
// evaluation key = mask seed, sample and step = low and high word of the row's number in the data set, so
// that neither batch size nor number of ranks nor the training seed matter. Site (+ 2 in evaluation) 0:
// selection, index = token / 4; 1: what becomes of a selected token, index = token.
#include "data/masking.h"

#include "oht/random.h"

oht_mask_key oht_mask_key_train(uint64_t seed, int64_t step, int64_t sample) {
    return (oht_mask_key){.seed = seed, .step = (uint32_t)step, .sample = (uint32_t)sample};
}

oht_mask_key oht_mask_key_evaluation(uint64_t mask_seed, int64_t row) {
    return (oht_mask_key){.seed = mask_seed,
                          .evaluation = true,
                          .step = (uint32_t)((uint64_t)row >> 32),
                          .sample = (uint32_t)row};
}

oht_masking oht_masking_of(const oht_text_info *info, double probability) {
    return (oht_masking){
        .threshold = {(uint64_t)(probability * 0x1p32), (uint64_t)(0.8 * 0x1p32), (uint64_t)(0.9 * 0x1p32)},
        .vocab_size = (uint32_t)info->vocab_size,
        .mask_id = info->mask_id,
        .special = {info->pad_id, info->cls_id, info->sep_id, info->mask_id},
    };
}

int64_t oht_mask_row(const oht_masking *m, oht_mask_key key, int32_t *tokens, int64_t T, int32_t place0,
                     int32_t *labels, int32_t *positions) {
    uint32_t site = key.evaluation ? 2 : 0;
    int64_t picked = 0;
    philox4x32_ctr_t select = {{0}};
    for (int64_t t = 0; t < T; t++) {
        if (t % 4 == 0)
            select = oht_random_block(key.seed, OHT_DRAW_MASK, site, key.step, key.sample, (uint32_t)(t / 4));
        int32_t id = tokens[t];
        bool special =
            id == m->special[0] || id == m->special[1] || id == m->special[2] || id == m->special[3];
        if (special || select.v[t % 4] >= m->threshold[0]) continue;
        labels[picked] = id;
        positions[picked++] = place0 + (int32_t)t;
        philox4x32_ctr_t act =
            oht_random_block(key.seed, OHT_DRAW_MASK, site + 1, key.step, key.sample, (uint32_t)t);
        if (act.v[0] < m->threshold[1])
            tokens[t] = m->mask_id;
        else if (act.v[0] < m->threshold[2])
            tokens[t] = (int32_t)(((uint64_t)act.v[1] * m->vocab_size) >> 32);
    }
    return picked;
}
