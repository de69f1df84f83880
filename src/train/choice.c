// What the evaluations of a run decide: which parameters are the best so far, and when to stop (spec stanhop 3.1). An evaluation
// that reaches the least loss so far, ties included, is the best one; after `patience` others in a row training stops.
#include <math.h>

#include "oht/train.h"

bool oht_choice_take(oht_choice *c, int64_t step, double loss) {
    c->seen_step = step;
    if (isnan(loss) || (c->best_step > 0 && !(loss <= c->best_loss))) {
        c->worse++;
        return false;
    }
    c->best_loss = loss;
    c->best_step = step;
    c->worse = 0;
    return true;
}

bool oht_choice_stops(const oht_choice *c, int64_t patience) {
    return patience > 0 && c->worse >= patience;
}
