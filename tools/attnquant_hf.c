/*
 * Converts Hugging Face folders: config.json becomes the keys, safetensors become the tensors
 * under GGUF's names, the tokenizer's files become the vocabulary. One thread. None of the
 * files is trusted.
 *
 * Llama and Mistral rotate pairs of neighbours in GGUF and halves at Hugging Face, so their q
 * and k rows are permuted; Qwen rotates halves in both.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/attnquant.h"
#include "tools/attnquant_safetensors.h"
#include "tools/tool_text.h"

enum { LAYERS_MAX = 256, SIZE_MAX_OF_MODEL = 1 << 24 };

static const struct {
	const char *hugging_face, *gguf;
	bool pairs;
} ARCHITECTURES[] = {
	{ "LlamaForCausalLM", "llama", true },
	{ "MistralForCausalLM", "llama", true },
	{ "Qwen2ForCausalLM", "qwen2", false },
	{ "Qwen3ForCausalLM", "qwen3", false },
};

struct folder {
	const struct attnquant_convert *convert;
	cJSON *config, *tokenizer_config; /* tokenizer_config: may be NULL */
	const char *architecture;
	bool pairs;
	uint32_t width, ff_width, layers, heads, kv_heads, head_dim, vocab_size, context;
	double epsilon, rope_base;
	const cJSON *rope_scaling;
	float *rope_factors; /* [head_dim / 2], or NULL */
	struct attnquant_safetensors weights;
	struct attnquant_vocab vocab;
	struct attnquant_tensors tensors;
};

static const cJSON *get(const cJSON *object, const char *name)
{
	return cJSON_GetObjectItemCaseSensitive(object, name);
}

/* ---- config.json --------------------------------------------------------------------------------------- */

/* NULL with a message for what is no JSON. */
static cJSON *read_json(const char *folder, const char *name)
{
	char *path = attnquant_join(folder, name);
	struct attnquant_file file;
	cJSON *root = NULL;

	if (attnquant_file_open(&file, path) == 0) {
		root = cJSON_ParseWithLength((const char *)file.bytes, file.size);
		attnquant_file_close(&file);
		if (!root)
			base_fail(EBADMSG, "%s is no JSON", path);
	}
	free(path);
	return root;
}

/* otherwise: what an absent or null entry means; 0: it must be there. */
static int read_size(
	const struct folder *folder, const char *name, uint32_t otherwise, uint32_t *value)
{
	const cJSON *item = get(folder->config, name);

	*value = otherwise;
	if (!item || cJSON_IsNull(item))
		return otherwise ? 0 : base_fail(EBADMSG, "config.json lacks '%s'", name);
	if (!cJSON_IsNumber(item) ||
		!(item->valuedouble >= 1 && item->valuedouble <= SIZE_MAX_OF_MODEL))
		return base_fail(EBADMSG, "config.json: '%s' makes no sense", name);
	*value = (uint32_t)item->valuedouble;
	return 0;
}

static double read_number(const cJSON *object, const char *name, double otherwise)
{
	const cJSON *item = get(object, name);

	return cJSON_IsNumber(item) ? item->valuedouble : otherwise;
}

static int read_architecture(struct folder *folder)
{
	const char *name =
		cJSON_GetStringValue(cJSON_GetArrayItem(get(folder->config, "architectures"), 0));

	for (size_t i = 0; name && i < sizeof(ARCHITECTURES) / sizeof(*ARCHITECTURES); i++) {
		if (strcmp(name, ARCHITECTURES[i].hugging_face) == 0) {
			folder->architecture = ARCHITECTURES[i].gguf;
			folder->pairs = ARCHITECTURES[i].pairs;
			return 0;
		}
	}
	return base_fail(ENOTSUP,
		"the architecture '%s' is not converted; LlamaForCausalLM, MistralForCausalLM, "
		"Qwen2ForCausalLM and Qwen3ForCausalLM are",
		name ? name : "");
}

static int read_shape(struct folder *folder)
{
	int rc;

	if ((rc = read_size(folder, "hidden_size", 0, &folder->width)) < 0 ||
		(rc = read_size(folder, "intermediate_size", 0, &folder->ff_width)) < 0 ||
		(rc = read_size(folder, "num_hidden_layers", 0, &folder->layers)) < 0 ||
		(rc = read_size(folder, "num_attention_heads", 0, &folder->heads)) < 0 ||
		(rc = read_size(folder, "num_key_value_heads", folder->heads, &folder->kv_heads)) <
			0 ||
		(rc = read_size(folder, "head_dim",
			 folder->width / folder->heads ? folder->width / folder->heads : 1,
			 &folder->head_dim)) < 0 ||
		(rc = read_size(folder, "vocab_size", 0, &folder->vocab_size)) < 0 ||
		(rc = read_size(folder, "max_position_embeddings", 2048, &folder->context)) < 0)
		return rc;
	if (folder->layers > LAYERS_MAX || folder->head_dim % 2 != 0 ||
		folder->heads % folder->kv_heads != 0)
		return base_fail(EBADMSG,
			"config.json: %" PRIu32 " layers, %" PRIu32 " heads of %" PRIu32
			", %" PRIu32 " KV heads make no sense",
			folder->layers, folder->heads, folder->head_dim, folder->kv_heads);
	return 0;
}

/* Where the rotation's settings are: apart, or since 2025 together in rope_parameters. */
static void read_rope(struct folder *folder)
{
	const cJSON *together = get(folder->config, "rope_parameters");

	folder->rope_base = read_number(
		folder->config, "rope_theta", read_number(together, "rope_theta", 10000));
	folder->rope_scaling = together ? together : get(folder->config, "rope_scaling");
}

static const char *rope_type(const struct folder *folder)
{
	const cJSON *type = get(folder->rope_scaling, "rope_type");
	const char *name = cJSON_GetStringValue(type ? type : get(folder->rope_scaling, "type"));

	return name ? name : "default";
}

/* Llama 3's scaling, as a divisor for each frequency: long waves are stretched by the factor,
 * short ones are kept, and those between are blended. */
static int make_rope_factors(struct folder *folder)
{
	const cJSON *scaling = folder->rope_scaling;
	double factor = read_number(scaling, "factor", 8),
	       low = read_number(scaling, "low_freq_factor", 1);
	double high = read_number(scaling, "high_freq_factor", 4);
	double original = read_number(scaling, "original_max_position_embeddings", 8192);

	if (!(factor > 0) || !(high > low) || !(low > 0) || !(original > 0))
		return base_fail(
			EBADMSG, "config.json: the scaling of the rotation makes no sense");
	folder->rope_factors = calloc(folder->head_dim / 2, sizeof(float));
	if (!folder->rope_factors)
		return base_fail(ENOMEM, "no memory for the rotation's factors");
	for (uint32_t i = 0; i < folder->head_dim / 2; i++) {
		double frequency = pow(folder->rope_base, -2.0 * i / folder->head_dim);
		double turns = original * frequency / (2 * M_PI); /* in the original context */
		double blend = (turns - low) / (high - low);

		blend = blend < 0 ? 0 : blend > 1 ? 1 : blend;
		folder->rope_factors[i] = (float)(1 / ((1 - blend) / factor + blend));
	}
	return 0;
}

static int read_config(struct folder *folder)
{
	int rc;

	folder->config = read_json(folder->convert->in, "config.json");
	if (!folder->config)
		return base_fail_within(EBADMSG, "the folder's description");
	if (cJSON_IsObject(get(folder->config, "quantization_config")))
		return base_fail(ENOTSUP,
			"its weights are quantized already, in a way that is not converted");
	rc = read_architecture(folder);
	if (rc == 0)
		rc = read_shape(folder);
	if (rc < 0)
		return rc;
	folder->epsilon = read_number(folder->config, "rms_norm_eps", 1e-6);
	read_rope(folder);
	if (strcmp(rope_type(folder), "llama3") == 0)
		return make_rope_factors(folder);
	if (strcmp(rope_type(folder), "default") != 0 && strcmp(rope_type(folder), "linear") != 0 &&
		strcmp(rope_type(folder), "yarn") != 0)
		return base_fail(ENOTSUP,
			"the rotation is scaled by '%s'; linear, llama3 and yarn are converted",
			rope_type(folder));
	return 0;
}

/* ---- the tokenizer ------------------------------------------------------------------------------------- */

static int64_t find_token(const struct attnquant_vocab *vocab, const char *text)
{
	for (uint32_t i = 0; text && i < vocab->count; i++)
		if (strcmp(vocab->tokens[i].bytes, text) == 0)
			return i;
	return -1;
}

/* "bos_token" of tokenizer_config.json is a text, or an object with a content; else
 * config.json's id counts. */
static int64_t special_token(
	const struct folder *folder, const char *text_name, const char *id_name, int64_t otherwise)
{
	const cJSON *item = get(folder->tokenizer_config, text_name),
		    *id = get(folder->config, id_name);
	int64_t found = find_token(&folder->vocab,
		cJSON_GetStringValue(cJSON_IsObject(item) ? get(item, "content") : item));

	if (found >= 0)
		return found;
	if (cJSON_IsArray(id))
		id = cJSON_GetArrayItem(id, 0);
	if (cJSON_IsNumber(id) && id->valuedouble >= 0 &&
		id->valuedouble < (double)folder->vocab.count)
		return (int64_t)id->valuedouble;
	return otherwise;
}

/* Tokens that were added to a SentencePiece vocabulary are listed in tokenizer_config.json. */
static int add_listed_tokens(struct folder *folder)
{
	const cJSON *item;

	cJSON_ArrayForEach(item, get(folder->tokenizer_config, "added_tokens_decoder")) {
		const char *text = cJSON_GetStringValue(get(item, "content"));
		unsigned long id = strtoul(item->string, NULL, 10);
		uint32_t had = folder->vocab.count;
		int rc;

		if (!text || id < had || id >= folder->vocab_size)
			continue;
		rc = attnquant_vocab_grow(&folder->vocab, (uint32_t)id + 1);
		if (rc == 0)
			rc = attnquant_vocab_set(&folder->vocab, (uint32_t)id, text, strlen(text),
				0,
				cJSON_IsTrue(get(item, "special")) ? TOKEN_CONTROL :
								     TOKEN_USER_DEFINED);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int read_vocabulary(struct folder *folder)
{
	const char *in = folder->convert->in;
	char *sentencepiece = attnquant_join(in, "tokenizer.model"),
	     *bpe = attnquant_join(in, "tokenizer.json");
	int rc = 0;

	if (folder->convert->tokenizer)
		rc = attnquant_vocab_read(&folder->vocab, folder->convert->tokenizer);
	else if (attnquant_exists(sentencepiece))
		rc = attnquant_vocab_read(&folder->vocab, sentencepiece);
	else if (attnquant_exists(bpe))
		rc = attnquant_bpe_read(&folder->vocab, bpe);
	else
		tool_say(
			"neither tokenizer.model nor tokenizer.json in %s: the file will take token ids only",
			in);
	free(sentencepiece);
	free(bpe);
	return rc;
}

/* Whether a tokenizer.json's template puts the begin token first; tokenizer_config.json may say
 * so outright. */
static bool adds_bos(const struct folder *folder)
{
	const cJSON *said = get(folder->tokenizer_config, "add_bos_token");

	if (cJSON_IsBool(said))
		return cJSON_IsTrue(said);
	return folder->vocab.pre && strcmp(folder->vocab.pre, "llama-bpe") == 0 ?
		true :
		folder->vocab.add_bos;
}

static int read_tokenizer(struct folder *folder)
{
	struct attnquant_vocab *vocab = &folder->vocab;
	const char *template;
	int rc;

	folder->tokenizer_config = read_json(folder->convert->in, "tokenizer_config.json");
	rc = read_vocabulary(folder);
	if (rc < 0 || !vocab->model)
		return rc;
	rc = add_listed_tokens(folder);
	if (rc == 0 && vocab->count > folder->vocab_size)
		rc = base_fail(EINVAL,
			"the tokenizer has %" PRIu32 " tokens, the model %" PRIu32
			": they do not belong "
			"together",
			vocab->count, folder->vocab_size);
	if (rc == 0)
		rc = attnquant_vocab_grow(vocab, folder->vocab_size);
	if (rc < 0)
		return rc;
	vocab->bos = special_token(folder, "bos_token", "bos_token_id", vocab->bos);
	vocab->eos = special_token(folder, "eos_token", "eos_token_id", vocab->eos);
	vocab->unknown = special_token(folder, "unk_token", "unk_token_id", vocab->unknown);
	vocab->padding = special_token(folder, "pad_token", "pad_token_id", vocab->padding);
	vocab->add_bos = adds_bos(folder);
	template = cJSON_GetStringValue(get(folder->tokenizer_config, "chat_template"));
	if (template && !(vocab->chat_template = strdup(template)))
		return base_fail(ENOMEM, "no memory for the chat template");
	return 0;
}

/* ---- tensors ------------------------------------------------------------------------------------------- */

/* rows 0: a vector. heads: permute its rows so. optional: no matter if it is not there. */
static int take(struct folder *folder, const char *from, const char *to, uint64_t columns,
	uint64_t rows, uint32_t heads, bool optional)
{
	struct attnquant_safetensor *found = attnquant_safetensors_find(&folder->weights, from);
	struct attnquant_tensor *tensor;
	uint32_t dims = rows ? 2 : 1;

	if (!found)
		return optional ? 0 : base_fail(EBADMSG, "tensor '%s' is missing", from);
	if (found->dims != dims || found->shape[dims - 1] != columns ||
		(rows && found->shape[0] != rows))
		return base_fail(EBADMSG,
			"tensor '%s' does not have the shape that config.json asks for: %" PRIu64
			" x %" PRIu64,
			from, rows ? rows : 1, columns);
	tensor = attnquant_tensors_add(&folder->tensors);
	snprintf(tensor->name, sizeof(tensor->name), "%s", to);
	tensor->dims = dims;
	tensor->dim[0] = columns;
	tensor->dim[1] = rows;
	tensor->from = found->type;
	tensor->data = found->data;
	tensor->pairs_of_heads = folder->pairs ? heads : 0;
	return 0;
}

struct part {
	const char *from, *to;
	uint64_t columns, rows;
	uint32_t heads;
	bool optional;
};

static int take_layer(struct folder *folder, uint32_t layer)
{
	uint64_t width = folder->width, q = (uint64_t)folder->heads * folder->head_dim;
	uint64_t kv = (uint64_t)folder->kv_heads * folder->head_dim, ff = folder->ff_width;
	bool norms = strcmp(folder->architecture, "qwen3") == 0,
	     biases = strcmp(folder->architecture, "qwen2") == 0;
	const struct part parts[] = {
		{ "input_layernorm.weight", "attn_norm.weight", width, 0, 0, false },
		{ "self_attn.q_proj.weight", "attn_q.weight", width, q, folder->heads, false },
		{ "self_attn.q_proj.bias", "attn_q.bias", q, 0, folder->heads, !biases },
		{ "self_attn.k_proj.weight", "attn_k.weight", width, kv, folder->kv_heads, false },
		{ "self_attn.k_proj.bias", "attn_k.bias", kv, 0, folder->kv_heads, !biases },
		{ "self_attn.v_proj.weight", "attn_v.weight", width, kv, 0, false },
		{ "self_attn.v_proj.bias", "attn_v.bias", kv, 0, 0, !biases },
		{ "self_attn.q_norm.weight", "attn_q_norm.weight", folder->head_dim, 0, 0, !norms },
		{ "self_attn.k_norm.weight", "attn_k_norm.weight", folder->head_dim, 0, 0, !norms },
		{ "self_attn.o_proj.weight", "attn_output.weight", q, width, 0, false },
		{ "self_attn.o_proj.bias", "attn_output.bias", width, 0, 0, true },
		{ "post_attention_layernorm.weight", "ffn_norm.weight", width, 0, 0, false },
		{ "mlp.gate_proj.weight", "ffn_gate.weight", width, ff, 0, false },
		{ "mlp.up_proj.weight", "ffn_up.weight", width, ff, 0, false },
		{ "mlp.down_proj.weight", "ffn_down.weight", ff, width, 0, false },
	};
	char from[128], to[64];

	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		int rc;

		snprintf(from, sizeof(from), "model.layers.%" PRIu32 ".%s", layer, parts[i].from);
		snprintf(to, sizeof(to), "blk.%" PRIu32 ".%s", layer, parts[i].to);
		rc = take(folder, from, to, parts[i].columns, parts[i].rows, parts[i].heads,
			parts[i].optional);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void add_rope_factors(struct folder *folder)
{
	struct attnquant_tensor *tensor;

	if (!folder->rope_factors)
		return;
	tensor = attnquant_tensors_add(&folder->tensors);
	snprintf(tensor->name, sizeof(tensor->name), "rope_freqs.weight");
	tensor->dims = 1;
	tensor->dim[0] = folder->head_dim / 2;
	tensor->from = KERN_F32;
	tensor->data = folder->rope_factors;
}

static int check_all_used(const struct folder *folder)
{
	for (uint32_t i = 0; i < folder->weights.count; i++)
		if (!folder->weights.tensors[i].used &&
			!strstr(folder->weights.tensors[i].name, "rotary_emb.inv_freq"))
			return base_fail(ENOTSUP, "tensor '%s' has no place in this architecture",
				folder->weights.tensors[i].name);
	return 0;
}

static int take_all(struct folder *folder)
{
	bool tied = cJSON_IsTrue(get(folder->config, "tie_word_embeddings"));
	int rc = take(folder, "model.embed_tokens.weight", "token_embd.weight", folder->width,
		folder->vocab_size, 0, false);

	add_rope_factors(folder);
	for (uint32_t layer = 0; rc == 0 && layer < folder->layers; layer++)
		rc = take_layer(folder, layer);
	if (rc == 0)
		rc = take(folder, "model.norm.weight", "output_norm.weight", folder->width, 0, 0,
			false);
	if (rc == 0 && tied)
		attnquant_safetensors_find(&folder->weights, "lm_head.weight");
	else if (rc == 0)
		rc = take(folder, "lm_head.weight", "output.weight", folder->width,
			folder->vocab_size, 0, false);
	return rc == 0 ? check_all_used(folder) : rc;
}

/* ---- the file ------------------------------------------------------------------------------------------ */

static const char *key_of(const struct folder *folder, const char *name)
{
	static char key[96];

	snprintf(key, sizeof(key), "%s.%s", folder->architecture, name);
	return key;
}

static void put_rope(const struct folder *folder, struct model_gguf_writer *writer)
{
	const char *type = rope_type(folder);

	model_gguf_put_u32(writer, key_of(folder, "rope.dimension_count"), folder->head_dim);
	model_gguf_put_f32(writer, key_of(folder, "rope.freq_base"), (float)folder->rope_base);
	if (strcmp(type, "linear") != 0 && strcmp(type, "yarn") != 0)
		return;
	model_gguf_put_text(writer, key_of(folder, "rope.scaling.type"), type, strlen(type));
	model_gguf_put_f32(writer, key_of(folder, "rope.scaling.factor"),
		(float)read_number(folder->rope_scaling, "factor", 1));
	if (strcmp(type, "yarn") == 0)
		model_gguf_put_u32(writer, key_of(folder, "rope.scaling.original_context_length"),
			(uint32_t)read_number(folder->rope_scaling,
				"original_max_position_embeddings", folder->context));
}

/* The folder's own name where none is given. */
static void put_name(const struct folder *folder, struct model_gguf_writer *writer)
{
	char *path = realpath(folder->convert->in, NULL);
	const char *name = path && strrchr(path, '/') ? strrchr(path, '/') + 1 : "model";

	name = folder->convert->name ? folder->convert->name : name;
	model_gguf_put_text(writer, "general.name", name, strlen(name));
	free(path);
}

static void put_keys(const struct folder *folder, struct model_gguf_writer *writer)
{
	const cJSON *window = get(folder->config, "sliding_window"),
		    *use = get(folder->config, "use_sliding_window");
	enum kern_type type = folder->convert->type == KERN_TYPE_END ? folder->tensors.list[0].to :
								       folder->convert->type;

	model_gguf_put_text(
		writer, "general.architecture", folder->architecture, strlen(folder->architecture));
	put_name(folder, writer);
	model_gguf_put_u32(writer, "general.file_type", attnquant_file_type(type));
	model_gguf_put_u32(writer, "general.quantization_version", 2);
	model_gguf_put_u32(writer, key_of(folder, "vocab_size"), folder->vocab_size);
	model_gguf_put_u32(writer, key_of(folder, "context_length"), folder->context);
	model_gguf_put_u32(writer, key_of(folder, "embedding_length"), folder->width);
	model_gguf_put_u32(writer, key_of(folder, "block_count"), folder->layers);
	model_gguf_put_u32(writer, key_of(folder, "feed_forward_length"), folder->ff_width);
	model_gguf_put_u32(writer, key_of(folder, "attention.head_count"), folder->heads);
	model_gguf_put_u32(writer, key_of(folder, "attention.head_count_kv"), folder->kv_heads);
	model_gguf_put_u32(writer, key_of(folder, "attention.key_length"), folder->head_dim);
	model_gguf_put_u32(writer, key_of(folder, "attention.value_length"), folder->head_dim);
	model_gguf_put_f32(
		writer, key_of(folder, "attention.layer_norm_rms_epsilon"), (float)folder->epsilon);
	if (cJSON_IsNumber(window) && window->valuedouble >= 1 && !cJSON_IsFalse(use))
		model_gguf_put_u32(writer, key_of(folder, "attention.sliding_window"),
			(uint32_t)window->valuedouble);
	put_rope(folder, writer);
	attnquant_vocab_put(&folder->vocab, writer);
}

static int write_folder(struct folder *folder)
{
	struct model_gguf_writer *writer;
	int rc = model_gguf_writer_create(&writer, folder->convert->out);

	if (rc < 0)
		return rc;
	attnquant_tensors_choose(&folder->tensors, folder->convert->type);
	put_keys(folder, writer);
	attnquant_tensors_put(&folder->tensors, writer);
	rc = attnquant_finish(writer, &folder->tensors, folder->convert->out);
	model_gguf_writer_destroy(writer);
	return rc;
}

int attnquant_convert_hugging_face(const struct attnquant_convert *convert)
{
	struct folder folder = { .convert = convert };
	int rc = read_config(&folder);

	if (rc == 0)
		rc = attnquant_safetensors_open(&folder.weights, convert->in);
	if (rc == 0)
		rc = take_all(&folder);
	if (rc == 0)
		rc = read_tokenizer(&folder);
	if (rc < 0)
		rc = base_fail_within(-rc, "%s", convert->in);
	else
		rc = write_folder(&folder);
	attnquant_tensors_free(&folder.tensors);
	attnquant_vocab_free(&folder.vocab);
	attnquant_safetensors_close(&folder.weights);
	free(folder.rope_factors);
	cJSON_Delete(folder.tokenizer_config);
	cJSON_Delete(folder.config);
	return rc;
}
