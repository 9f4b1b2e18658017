/*
 * attnquant measure model: perplexity and divergence of a model under every KV format, and with its weights in every
 * format, against the same file with a cache of float32; or, with --exact, against its weights multiplied as float32.
 *
 * Products of quantized weights round the activations too. Two runs that differ anywhere round differently everywhere,
 * so that the reference's rounding is counted twice: the exact reference keeps a small loss apart from it.
 *
 * All models are loaded side by side, and every chunk of text goes through all of them, so that the reference's logits are
 * kept for one chunk alone. As is the custom, the second half of each chunk counts. Weights are requantized through
 * a temporary file that is removed as soon as it is loaded, or when the program is interrupted.
 */
#include <argp.h>
#include <cjson/cJSON.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base_error.h"
#include "model/model.h"
#include "tools/attnquant.h"
#include "tools/attnquant_measure.h"
#include "tools/tool_args.h"
#include "tools/tool_table.h"
#include "tools/tool_text.h"

enum {
	TOKENS = 4096,
	CONTEXT = 512,
	STEP_ROWS = 128, /* no result depends on it */
	RUNS_MAX = 2 * (MEASURE_KV_MAX + 1) + KERN_TYPE_END
};

/* One row of the table. The first is the reference. */
struct run {
	struct model *model; /* shared by runs of the same weights */
	char weights[24];
	struct measure_kv cache;
	struct kern_kv_geometry kv;
	unsigned char **blocks;
	struct measure_sums sums;
};

struct measurement {
	const char *path, *text_path;
	uint32_t tokens, context;
	struct measure_kv_list kv;
	enum kern_type weights[KERN_TYPE_END];
	uint32_t weight_count;
	bool json, exact;

	struct kern_backend *backend;
	struct model *own; /* the file as it is */
	struct run runs[RUNS_MAX];
	uint32_t run_count;
	struct measure_text text;
	struct measure_chunk chunk;
	float *logits; /* [STEP_ROWS][vocab] */
	uint64_t done, total;
};

/* ---- the command line --------------------------------------------------------------------------------- */

enum { OPTION_KV = 256, OPTION_EXACT };

static const struct argp_option options[] = {
	{ "model", 'm', "FILE.gguf", 0, "the model (required)", 0 },
	{ "text", 't', "FILE", 0, "default: WikiText-2, as $ATTND_DATA/data/text/wikitext-2.test.txt", 0 },
	{ "tokens", 'n', "N", 0, "of the text; 0: all (default 4096)", 0 },
	{ "context", 'c', "N", 0, "tokens in a chunk (default 512)", 0 },
	{ "kv", OPTION_KV, "LIST", 0, "KV formats, such as int8,int8/bf16 for K/V; none, all (default)", 0 },
	{ "weights", 'w', "LIST", 0, "formats to requantize to, such as Q8_0,Q4_0; none, all (default)", 0 },
	{ "exact", OPTION_EXACT, NULL, 0, "the reference has the file's weights as F32", 0 },
	{ "json", 'j', NULL, 0, "print JSON", 0 },
	{ 0 },
};

static void all_weights(struct measurement *m)
{
	m->weight_count = 0;
	for (uint32_t type = 0; type < KERN_TYPE_END; type++) {
		const struct kern_type_info *info = kern_type_info(type);

		if (info && info->quantize && info->products)
			m->weights[m->weight_count++] = (enum kern_type)type;
	}
}

static void weights_argument(struct measurement *m, const char *value)
{
	char *copy = strdup(value), *rest = copy;

	m->weight_count = 0;
	if (strcmp(value, "all") == 0)
		all_weights(m);
	else if (strcmp(value, "none") != 0)
		for (char *name; (name = strsep(&rest, ","));) {
			if (m->weight_count == KERN_TYPE_END)
				tool_die(TOOL_USAGE, "more than %d formats of weights", KERN_TYPE_END);
			m->weights[m->weight_count++] = attnquant_type_argument(name);
		}
	free(copy);
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct measurement *m = state->input;

	switch (key) {
	case 'm':
		m->path = value;
		return 0;
	case 't':
		m->text_path = value;
		return 0;
	case 'n':
		m->tokens = (uint32_t)tool_args_u64("--tokens", value, 0, UINT32_MAX);
		return 0;
	case 'c':
		m->context = (uint32_t)tool_args_u64("--context", value, 4, 1 << 20);
		return 0;
	case OPTION_KV:
		m->kv.count = 0;
		if (strcmp(value, "none") != 0)
			measure_kv_argument(&m->kv, value);
		return 0;
	case 'w':
		weights_argument(m, value);
		return 0;
	case OPTION_EXACT:
		m->exact = true;
		return 0;
	case 'j':
		m->json = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "what is '%s'? A model is named with --model", value);
		return 0;
	case ARGP_KEY_END:
		if (!m->path)
			argp_error(state, "--model FILE.gguf is needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- the temporary file ------------------------------------------------------------------------------- */

static char folder[256], file[300], part[320]; /* a file is written as .part first */

static void remove_files(void)
{
	if (folder[0] == '\0')
		return;
	unlink(part);
	unlink(file);
	rmdir(folder);
}

static void interrupted(int number)
{
	(void)number;
	remove_files();
	_exit(TOOL_INTERRUPTED);
}

static void make_folder(void)
{
	const struct sigaction action = { .sa_handler = interrupted };
	const char *place = getenv("TMPDIR");

	snprintf(folder, sizeof(folder), "%s/attnquant-XXXXXX", place && *place ? place : "/tmp");
	if (!mkdtemp(folder)) {
		folder[0] = '\0';
		tool_die(TOOL_FAILED, "no temporary folder for requantized weights; TMPDIR names where");
	}
	snprintf(file, sizeof(file), "%s/weights.gguf", folder);
	snprintf(part, sizeof(part), "%s.part", file);
	atexit(remove_files);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

/* ---- models ------------------------------------------------------------------------------------------- */

static struct model *load(struct measurement *m, const char *path)
{
	const struct model_options load_options = { .struct_bytes = sizeof(load_options), .max_rows = STEP_ROWS,
		.max_out_rows = STEP_ROWS };
	struct model *model;

	if (model_load(&model, path, m->backend, &load_options) < 0)
		tool_die(TOOL_FAILED, "%s", base_error_message());
	return model;
}

static struct model *load_as(struct measurement *m, enum kern_type type)
{
	struct model *model;

	tool_progress("requantizing to %s", kern_type_info(type)->name);
	if (folder[0] == '\0')
		make_folder();
	if (attnquant_requantize(m->path, file, type, false) < 0)
		tool_die(TOOL_FAILED, "%s", base_error_message());
	model = load(m, file);
	unlink(file);
	return model;
}

static const struct measure_kv plain_cache = { KERN_KV_F32, KERN_KV_F32, "f32" };

/* A run of a model with a cache; false, with a message, where the model's heads do not suit the format. */
static bool add_run(struct measurement *m, struct model *model, const char *weights, const struct measure_kv *cache)
{
	struct run *run = &m->runs[m->run_count];
	uint32_t blocks;

	*run = (struct run){ .model = model, .cache = *cache, .kv = model_program(model)->kv };
	snprintf(run->weights, sizeof(run->weights), "%s", weights);
	run->kv.k = cache->k;
	run->kv.v = cache->v;
	if (kern_kv_init(&run->kv) < 0)
		return false;
	blocks = kern_kv_blocks(&run->kv, m->context);
	run->blocks = measure_alloc(blocks, sizeof(*run->blocks));
	for (uint32_t i = 0; i < blocks; i++) {
		run->blocks[i] = m->backend->ops->alloc(m->backend, run->kv.block_bytes[i > 0], "KV cache to be measured");
		if (!run->blocks[i])
			tool_die(TOOL_FAILED, "%s", base_error_message());
	}
	m->run_count++;
	return true;
}

/* Every cache with the same weights, f32 first. */
static void add_caches(struct measurement *m, struct model *model, const char *weights)
{
	if (!add_run(m, model, weights, &plain_cache))
		tool_die(TOOL_FAILED, "%s", base_error_message());
	for (uint32_t i = 0; i < m->kv.count; i++) {
		const struct measure_kv *kv = &m->kv.list[i];

		if ((kv->k != plain_cache.k || kv->v != plain_cache.v) && !add_run(m, model, weights, kv))
			tool_say("without %s: %s", kv->name, base_error_message());
	}
}

static void load_all(struct measurement *m)
{
	const struct model_info *info;

	tool_progress("loading %s", m->path);
	m->own = load(m, m->path);
	info = model_info(m->own);
	if (!model_tokenizer(m->own))
		tool_die(TOOL_FAILED, "%s has no tokenizer, so that no text can be read", m->path);
	if (m->context > info->context) {
		m->context = info->context;
		tool_say("chunks have %u tokens: the model's context is not longer", m->context);
	}
	/* Before the weights: their requantization takes a while, and all for nothing where the text is missing. */
	measure_text_open(&m->text, m->text_path, model_tokenizer(m->own), info->vocab, m->context, m->tokens);
	if (m->exact)
		add_caches(m, load_as(m, KERN_F32), "F32");
	add_caches(m, m->own, info->weights);
	for (uint32_t i = 0; i < m->weight_count; i++) {
		const enum kern_type type = m->weights[i];

		if (m->exact && type == KERN_F32)
			continue;
		if (!add_run(m, load_as(m, type), kern_type_info(type)->name, &plain_cache))
			tool_die(TOOL_FAILED, "%s", base_error_message());
	}
}

static void release_all(struct measurement *m)
{
	for (uint32_t i = 0; i < m->run_count; i++) {
		struct run *run = &m->runs[i];
		const uint32_t blocks = kern_kv_blocks(&run->kv, m->context);

		for (uint32_t block = 0; block < blocks; block++)
			m->backend->ops->free(m->backend, run->blocks[block]);
		free(run->blocks);
		/* Runs of the same model follow each other. */
		if (i + 1 == m->run_count || m->runs[i + 1].model != run->model)
			model_destroy(run->model);
	}
}

/* ---- running ------------------------------------------------------------------------------------------ */

/* The first position whose prediction counts, and how many count: the last has nothing behind it. */
static uint32_t first_scored(const struct measurement *m)
{
	return m->context / 2;
}

static uint32_t scored(const struct measurement *m)
{
	return m->context - 1 - first_scored(m);
}

/* Rows at .. at + count - 1 of a chunk; the logits of those that count go to `logits`. */
static void step(struct measurement *m, struct run *run, const uint32_t *tokens, uint32_t at, uint32_t count, float *logits)
{
	const struct kern_seq seq = { .rows = count, .position = at, .blocks = run->blocks, .kv = &run->kv };
	const uint32_t first = first_scored(m), skipped = at >= first ? 0 : first - at < count ? first - at : count;
	struct kern_out outs[STEP_ROWS];
	const struct kern_work work = { .kind = KERN_WORK_STEP, .step = { .program = model_program(run->model),
		.rows = count, .seq_count = 1, .out_count = count - skipped, .tokens = tokens + at, .seqs = &seq,
		.outs = outs } };
	int rc;

	for (uint32_t row = skipped; row < count; row++)
		outs[row - skipped] = (struct kern_out){ .row = row,
			.logits = logits + (size_t)(row - skipped) * m->chunk.vocab };
	rc = measure_run(m->backend, &work);
	if (rc < 0)
		tool_die(TOOL_FAILED, "a step with weights of %s and a cache of %s failed: %s", run->weights,
			run->cache.name, strerror(-rc));
}

/* A chunk through one run: the reference's logits stay, others are compared piece by piece. */
static void run_chunk(struct measurement *m, struct run *run, uint32_t chunk)
{
	const uint32_t *tokens = m->text.tokens + (size_t)chunk * m->context;
	const uint32_t first = first_scored(m), end = m->context - 1;
	const bool is_reference = run == m->runs;

	for (uint32_t at = 0, count; at < end; at += count) {
		const uint32_t from = at > first ? at : first; /* the first that counts, if any here does */
		float *logits = is_reference ? m->chunk.logits + (size_t)(from - first) * m->chunk.vocab : m->logits;

		count = end - at < STEP_ROWS ? end - at : STEP_ROWS;
		measure_progress(m->done, m->total, "chunk %u of %u, weights of %s, cache of %s", chunk + 1,
			m->text.chunks, run->weights, run->cache.name);
		step(m, run, tokens, at, count, logits);
		if (!is_reference && at + count > from)
			measure_chunk_compare(&m->chunk, from - first, at + count - from, logits, tokens + from + 1,
				&run->sums);
		m->done += count;
	}
	if (is_reference)
		measure_chunk_close(&m->chunk, tokens + first + 1, &run->sums);
}

static void run_all(struct measurement *m)
{
	const uint32_t vocab = model_info(m->own)->vocab;

	measure_chunk_create(&m->chunk, vocab, scored(m));
	m->logits = measure_alloc((size_t)STEP_ROWS * vocab, sizeof(*m->logits));
	m->total = (uint64_t)m->text.chunks * m->run_count * (m->context - 1);
	for (uint32_t chunk = 0; chunk < m->text.chunks; chunk++)
		for (uint32_t i = 0; i < m->run_count; i++)
			run_chunk(m, &m->runs[i], chunk);
	measure_progress_end();
	if (model_damaged(m->own))
		tool_die(TOOL_FAILED, "%s was truncated while it was read; the figures are worth nothing", m->path);
	measure_chunk_free(&m->chunk);
	free(m->logits);
}

/* ---- showing ------------------------------------------------------------------------------------------ */

struct figures {
	double perplexity, change_percent, change_error_percent, divergence, same_best_percent;
};

/* The change of perplexity is exp of the mean of `more`; its error is that of this mean. */
static struct figures figures_of(const struct measure_sums *sums)
{
	const double n = (double)sums->rows, more = sums->more / n;
	const double variance = fmax(sums->more_squared / n - more * more, 0);

	return (struct figures){
		.perplexity = exp(sums->loss / n),
		.change_percent = 100 * expm1(more),
		.change_error_percent = 100 * sqrt(variance / n),
		.divergence = sums->divergence / n,
		.same_best_percent = 100 * (double)sums->same_best / n,
	};
}

static void print_table(const struct measurement *m)
{
	struct tool_table *table =
		tool_table_new("weights|cache|>perplexity|>change|>+-|>mean KLD|>largest KLD|>same best token");
	const struct model_info *info = model_info(m->own);
	char count[TOOL_NUMBER_BYTES];

	tool_table_title(stdout, "%s: %s tokens of %s in chunks of %u, their second halves scored", info->name,
		tool_count(count, (uint64_t)m->text.chunks * m->context), m->text.path, m->context);
	for (uint32_t i = 0; i < m->run_count; i++) {
		const struct run *run = &m->runs[i];
		const struct figures figures = figures_of(&run->sums);

		tool_table_row(table);
		tool_table_cell(table, "%s", run->weights);
		tool_table_cell(table, "%s", run->cache.name);
		tool_table_cell(table, "%.4f", figures.perplexity);
		if (i == 0) {
			tool_table_cell(table, "reference");
			continue;
		}
		tool_table_cell(table, "%+.3f %%", figures.change_percent);
		tool_table_cell(table, "%.3f %%", figures.change_error_percent);
		tool_table_cell(table, "%.2e", figures.divergence);
		tool_table_cell(table, "%.2e", run->sums.divergence_most);
		tool_table_cell(table, "%.2f %%", figures.same_best_percent);
	}
	tool_table_print(table, stdout);
}

static void print_json(const struct measurement *m)
{
	const struct model_info *info = model_info(m->own);
	cJSON *root = cJSON_CreateObject(), *list;
	char *text;

	cJSON_AddStringToObject(root, "model", info->name);
	cJSON_AddStringToObject(root, "backend", m->backend->properties.name);
	cJSON_AddStringToObject(root, "text", m->text.path);
	cJSON_AddNumberToObject(root, "tokens", (double)m->text.chunks * m->context);
	cJSON_AddNumberToObject(root, "context", m->context);
	cJSON_AddNumberToObject(root, "scored", (double)m->text.chunks * scored(m));
	list = cJSON_AddArrayToObject(root, "runs");
	for (uint32_t i = 0; i < m->run_count; i++) {
		const struct run *run = &m->runs[i];
		const struct figures figures = figures_of(&run->sums);
		cJSON *item = cJSON_CreateObject();

		cJSON_AddStringToObject(item, "weights", run->weights);
		cJSON_AddStringToObject(item, "kv", run->cache.name);
		cJSON_AddBoolToObject(item, "reference", i == 0);
		cJSON_AddNumberToObject(item, "kv_bits", measure_kv_bits(&run->kv));
		cJSON_AddNumberToObject(item, "weight_bytes", (double)model_info(run->model)->weight_bytes);
		cJSON_AddNumberToObject(item, "perplexity", figures.perplexity);
		cJSON_AddNumberToObject(item, "change_percent", figures.change_percent);
		cJSON_AddNumberToObject(item, "change_error_percent", figures.change_error_percent);
		cJSON_AddNumberToObject(item, "divergence", figures.divergence);
		cJSON_AddNumberToObject(item, "divergence_most", run->sums.divergence_most);
		cJSON_AddNumberToObject(item, "same_best_percent", figures.same_best_percent);
		cJSON_AddItemToArray(list, item);
	}
	text = cJSON_Print(root);
	puts(text ? text : "{}");
	cJSON_free(text);
	cJSON_Delete(root);
}

static const struct argp model_argp = {
	.options = options,
	.parser = parse,
	.doc = "Measures what formats cost a model: perplexity, and the Kullback-Leibler divergence (KLD) from the reference, "
	       "which is the same file with a cache of f32.\v"
	       "Each KV format is measured with the weights of the file; then the weights are requantized to each other format, "
	       "with a cache of f32. Weights are best requantized from a file of F32, F16 or BF16. The change of perplexity "
	       "has its standard error beside it. Products of quantized weights round the activations too, in the reference as "
	       "well; with --exact the reference has the file's weights as F32, which are multiplied as such, and the KV "
	       "formats are measured both with these and with the file's. That takes 4 bytes per weight.",
};

int attnquant_measure_model_command(int argc, char **argv)
{
	struct measurement *m = measure_alloc(1, sizeof(*m));

	m->tokens = TOKENS;
	m->context = CONTEXT;
	measure_kv_all(&m->kv);
	all_weights(m);
	tool_args_parse(&model_argp, argc, argv, m);
	m->backend = measure_backend();
	load_all(m);
	run_all(m);
	if (m->json)
		print_json(m);
	else
		print_table(m);
	release_all(m);
	measure_text_close(&m->text);
	m->backend->ops->destroy(m->backend);
	free(m);
	return TOOL_OK;
}
