/*
 * The definitions of products, norms and activations, in float64. Any thread; pure functions.
 */
#include "kernels/ref/ref_products.h"

#include <math.h>

void ref_product(const float *x, const float *w, size_t n, size_t k, double *y, double *scale)
{
	for (size_t i = 0; i < n; i++) {
		double sum = 0.0, magnitude = 0.0;

		for (size_t j = 0; j < k; j++) {
			const double term = (double)x[j] * (double)w[i * k + j];

			sum += term;
			magnitude += fabs(term);
		}
		y[i] = sum;
		if (scale)
			scale[i] = magnitude;
	}
}

void ref_rmsnorm(const float *x, const float *gain, size_t width, double epsilon, double *y)
{
	double squares = 0.0;

	for (size_t i = 0; i < width; i++)
		squares += (double)x[i] * x[i];
	for (size_t i = 0; i < width; i++)
		y[i] = x[i] / sqrt(squares / (double)width + epsilon) * gain[i];
}

void ref_layernorm(const float *x, const float *gain, const float *bias, size_t width, double epsilon, double *y)
{
	double sum = 0.0, squares = 0.0, mean;

	for (size_t i = 0; i < width; i++)
		sum += x[i];
	mean = sum / (double)width;
	for (size_t i = 0; i < width; i++)
		squares += (x[i] - mean) * (x[i] - mean);
	for (size_t i = 0; i < width; i++)
		y[i] = (x[i] - mean) / sqrt(squares / (double)width + epsilon) * gain[i] + (bias ? bias[i] : 0.0f);
}

double ref_silu(double x)
{
	return x / (1.0 + exp(-x));
}

double ref_gelu(double x)
{
	return 0.5 * x * (1.0 + erf(x * 0.70710678118654752440));
}
