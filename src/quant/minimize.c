// Minimum of a function of one variable on an interval: Brent's method (R. P. Brent, Algorithms for
// Minimization without Derivatives, 1973, chapter 5): parabolas through the three best points, golden
// sections where a parabola is no good.
#include <math.h>

#include "oht/quant.h"

enum { MOST_STEPS = 500 };

double oht_minimize(double (*f)(void *ctx, double x), void *ctx, double a, double b, double xatol,
                    double *fmin) {
    const double golden = 0.5 * (3.0 - sqrt(5.0)), root_eps = sqrt(2.2e-16);
    double best = a + golden * (b - a), second = best, third = best; // by value of f
    double f_best = f(ctx, best), f_second = f_best, f_third = f_best;
    double step = 0.0, before = 0.0; // this step and the one before it
    for (int i = 1; i < MOST_STEPS; i++) {
        double middle = 0.5 * (a + b), tol = root_eps * fabs(best) + xatol / 3.0;
        if (fabs(best - middle) <= 2.0 * tol - 0.5 * (b - a)) break;
        bool parabola = false;
        if (fabs(before) > tol) {
            double r = (best - second) * (f_best - f_third), q = (best - third) * (f_best - f_second);
            double p = (best - third) * q - (best - second) * r, last = before;
            q = 2.0 * (q - r);
            if (q > 0.0) p = -p;
            q = fabs(q);
            before = step;
            if (fabs(p) < fabs(0.5 * q * last) && p > q * (a - best) && p < q * (b - best)) {
                parabola = true;
                step = p / q;
                double at = best + step;
                if (at - a < 2.0 * tol || b - at < 2.0 * tol) step = middle >= best ? tol : -tol;
            }
        }
        if (!parabola) {
            before = best >= middle ? a - best : b - best;
            step = golden * before;
        }
        double x = best + (fabs(step) >= tol ? step : step >= 0.0 ? tol : -tol), fx = f(ctx, x);
        if (fx <= f_best) {
            if (x >= best)
                a = best;
            else
                b = best;
            third = second, f_third = f_second;
            second = best, f_second = f_best;
            best = x, f_best = fx;
            continue;
        }
        if (x < best)
            a = x;
        else
            b = x;
        if (fx <= f_second || second == best) {
            third = second, f_third = f_second;
            second = x, f_second = fx;
        } else if (fx <= f_third || third == best || third == second) {
            third = x, f_third = fx;
        }
    }
    *fmin = f_best;
    return best;
}
