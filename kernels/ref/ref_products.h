/*
 * Oracles in float64 of everything but attention: products, norms, activations. Slow, obvious, for tests and for
 * measuring the loss of a format; nothing on a request path calls them.
 */
#ifndef REF_PRODUCTS_H
#define REF_PRODUCTS_H

#include <stddef.h>

/* y[n] = sum over k of x[k] w[n][k]; scale[n], where not NULL, gets the sum of |x[k] w[n][k]|, to measure errors by. */
void ref_product(const float *x, const float *w, size_t n, size_t k, double *y, double *scale);

void ref_rmsnorm(const float *x, const float *gain, size_t width, double epsilon, double *y);
/* bias may be NULL. */
void ref_layernorm(const float *x, const float *gain, const float *bias, size_t width, double epsilon, double *y);

double ref_silu(double x);
double ref_gelu(double x);

#endif
