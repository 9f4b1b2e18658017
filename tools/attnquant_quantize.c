/*
 * attnquant quantize: the same model with its matrices in another format. One thread.
 */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/attnquant.h"
#include "tools/tool_args.h"
#include "tools/tool_text.h"

struct quantize {
	const char *in, *out;
	enum kern_type type;
	int arguments;
};

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct quantize *quantize = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		if (quantize->arguments == 0)
			quantize->in = value;
		else if (quantize->arguments == 1)
			quantize->out = value;
		else if (quantize->arguments == 2)
			quantize->type = attnquant_type_argument(value);
		else
			argp_error(state, "too many arguments");
		quantize->arguments++;
		return 0;
	case ARGP_KEY_END:
		if (quantize->arguments != 3)
			argp_error(state, "quantize needs IN.gguf OUT.gguf TYPE");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static bool is_key(const struct model_gguf_key *key, const char *name)
{
	return key->name.len == strlen(name) && memcmp(key->name.bytes, name, key->name.len) == 0;
}

/* All keys but those that speak of the file's own form. */
static void put_keys(
	const struct model_gguf *gguf, enum kern_type type, struct model_gguf_writer *writer)
{
	for (uint64_t i = 0; i < model_gguf_key_count(gguf); i++) {
		const struct model_gguf_key *key = model_gguf_key_at(gguf, i);

		if (!is_key(key, "general.alignment") && !is_key(key, "general.file_type") &&
			!is_key(key, "general.quantization_version"))
			model_gguf_put_key(writer, key);
	}
	model_gguf_put_u32(writer, "general.file_type", attnquant_file_type(type));
	model_gguf_put_u32(writer, "general.quantization_version", 2);
}

static int list_tensors(const struct model_gguf *gguf, struct attnquant_tensors *tensors)
{
	for (uint64_t i = 0; i < model_gguf_tensor_count(gguf); i++) {
		const struct model_gguf_tensor *from = model_gguf_tensor_at(gguf, i);
		struct attnquant_tensor *tensor = attnquant_tensors_add(tensors);

		if (from->name.len >= sizeof(tensor->name))
			return base_fail(ENOTSUP, "tensor '%.*s' has a name of more than %zu bytes",
				(int)from->name.len, from->name.bytes, sizeof(tensor->name) - 1);
		memcpy(tensor->name, from->name.bytes, from->name.len);
		tensor->dims = from->dims;
		memcpy(tensor->dim, from->dim, sizeof(tensor->dim));
		tensor->from = from->type;
		tensor->data = from->data;
	}
	return 0;
}

static int rewrite(const struct model_gguf *gguf, const char *out, enum kern_type type, bool say)
{
	struct attnquant_tensors tensors = { 0 };
	struct model_gguf_writer *writer;
	double error;
	int rc = list_tensors(gguf, &tensors);

	if (rc == 0)
		rc = model_gguf_writer_create(&writer, out);
	if (rc == 0) {
		attnquant_tensors_choose(&tensors, type);
		put_keys(gguf, type, writer);
		attnquant_tensors_put(&tensors, writer);
		rc = say ? attnquant_finish(writer, &tensors, out) : attnquant_save(writer, &tensors, &error);
		model_gguf_writer_destroy(writer);
	}
	attnquant_tensors_free(&tensors);
	return rc;
}

int attnquant_requantize(const char *in, const char *out, enum kern_type type, bool say)
{
	struct model_gguf *gguf;
	int rc = model_gguf_open(&gguf, in);

	if (rc < 0)
		return rc;
	rc = rewrite(gguf, out, type, say);
	if (rc == 0 && model_gguf_damaged(gguf))
		rc = base_fail(EIO, "%s was truncated while it was read; %s is worth nothing", in, out);
	model_gguf_close(gguf);
	return rc;
}

static const struct argp quantize_argp = {
	.parser = parse,
	.args_doc = "IN.gguf OUT.gguf TYPE",
	.doc = "Writes the same model with its matrices as TYPE: F32 F16 BF16 Q8_0 Q6_K Q5_K Q5_1 Q5_0 Q4_K Q4_1 Q4_0 IQ4_NL IQ4_XS "
	       "Q3_K Q2_K.\v"
	       "Norms and biases stay F32. Token embeddings and the output matrix become Q8_0 with the types of up to 5 bits. "
	       "Matrices whose rows are no whole blocks of TYPE become one with blocks of 32 elements: IQ4_NL for Q2_K, Q3_K and IQ4_XS, "
	       "Q5_0 for Q4_K, Q5_1 for Q5_K, Q8_0 for Q6_K; or F16.",
};

int attnquant_quantize_command(int argc, char **argv)
{
	struct quantize quantize = { 0 };

	tool_args_parse(&quantize_argp, argc, argv, &quantize);
	if (attnquant_requantize(quantize.in, quantize.out, quantize.type, true) < 0)
		tool_die(TOOL_FAILED, "%s", base_error_message());
	return TOOL_OK;
}
