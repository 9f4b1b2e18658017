/*
 * attnquant info: what a GGUF file holds, as tables or as JSON. One thread.
 */
#include <argp.h>
#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/attnquant.h"
#include "tools/tool_args.h"
#include "tools/tool_table.h"
#include "tools/tool_text.h"

enum { VALUE_COLUMNS = 72 };

struct info {
	const char *path;
	bool json, all;
};

static const struct argp_option options[] = {
	{ "json", 'j', NULL, 0, "print JSON", 0 },
	{ "all", 'a', NULL, 0, "list every tensor", 0 },
	{ 0 },
};

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct info *info = state->input;

	switch (key) {
	case 'j':
		info->json = true;
		return 0;
	case 'a':
		info->all = true;
		return 0;
	case ARGP_KEY_ARG:
		if (info->path)
			argp_error(state, "one file at a time");
		info->path = value;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "info needs a file");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- values -------------------------------------------------------------------------------------------- */

static const char *copy_name(char *out, struct model_text name)
{
	memcpy(out, name.bytes, name.len);
	out[name.len] = '\0';
	return out;
}

/* Text of a file on a terminal: one line, no control bytes, cut where it is long. */
static void tidy(char *out, size_t size, struct model_text text)
{
	size_t at = 0;

	for (size_t i = 0; i < text.len && at + 5 < size; i++) {
		unsigned char byte = (unsigned char)text.bytes[i];

		if (byte == '\n') {
			out[at++] = '\\';
			out[at++] = 'n';
		} else {
			out[at++] = byte < 0x20 || byte == 0x7f ? '?' : (char)byte;
		}
	}
	out[at] = '\0';
	if (text.len > at)
		strcpy(out + at, "...");
}

static double number_of(const struct model_gguf *gguf, const struct model_gguf_key *key)
{
	char name[MODEL_GGUF_NAME_MAX + 1];
	uint64_t wide = 0;
	int64_t narrow;
	uint32_t whole;
	float real;

	copy_name(name, key->name);
	if (model_gguf_u32(gguf, name, &whole) == 0)
		return whole;
	if (model_gguf_f32(gguf, name, &real) == 0)
		return (double)real;
	memcpy(&wide, key->raw.bytes, key->raw.len < sizeof(wide) ? key->raw.len : sizeof(wide));
	memcpy(&narrow, &wide, sizeof(narrow));
	return key->type == MODEL_GGUF_U64 ? (double)wide : (double)narrow;
}

static void show_value(
	char *out, size_t size, const struct model_gguf *gguf, const struct model_gguf_key *key)
{
	char name[MODEL_GGUF_NAME_MAX + 1];
	struct model_text text;

	if (key->type == MODEL_GGUF_STRING &&
		model_gguf_text(gguf, copy_name(name, key->name), &text) == 0)
		tidy(out, size, text);
	else if (key->type == MODEL_GGUF_ARRAY)
		snprintf(out, size, "[%" PRIu64 " values]", key->count);
	else if (key->type == MODEL_GGUF_BOOL)
		snprintf(out, size, "%s", key->raw.bytes[0] ? "true" : "false");
	else
		snprintf(out, size, "%.9g", number_of(gguf, key));
}

static void show_shape(char *out, size_t size, const struct model_gguf_tensor *tensor)
{
	int at = snprintf(out, size, "%" PRIu64, tensor->dim[0]);

	for (uint32_t i = 1; i < tensor->dims && (size_t)at < size; i++)
		at += snprintf(out + at, size - (size_t)at, " x %" PRIu64, tensor->dim[i]);
}

struct totals {
	uint64_t parameters, bytes, tensors[KERN_TYPE_END], bytes_of[KERN_TYPE_END];
};

static uint64_t elements_of(const struct model_gguf_tensor *tensor)
{
	return tensor->dim[0] * tensor->dim[1] * tensor->dim[2] * tensor->dim[3];
}

static struct totals add_up(const struct model_gguf *gguf)
{
	struct totals totals = { 0 };

	for (uint64_t i = 0; i < model_gguf_tensor_count(gguf); i++) {
		const struct model_gguf_tensor *tensor = model_gguf_tensor_at(gguf, i);

		totals.parameters += elements_of(tensor);
		totals.bytes += tensor->size_bytes;
		totals.tensors[tensor->type]++;
		totals.bytes_of[tensor->type] += tensor->size_bytes;
	}
	return totals;
}

/* ---- as tables ----------------------------------------------------------------------------------------- */

static void print_keys(const struct model_gguf *gguf)
{
	struct tool_table *table = tool_table_new("key|value");
	char name[MODEL_GGUF_NAME_MAX + 1], value[VALUE_COLUMNS];

	for (uint64_t i = 0; i < model_gguf_key_count(gguf); i++) {
		const struct model_gguf_key *key = model_gguf_key_at(gguf, i);

		show_value(value, sizeof(value), gguf, key);
		tool_table_row(table);
		tool_table_cell(table, "%s", copy_name(name, key->name));
		tool_table_cell(table, "%s", value);
	}
	tool_table_print(table, stdout);
}

static void print_tensors(const struct model_gguf *gguf)
{
	struct tool_table *table = tool_table_new("tensor|type|shape|>bytes");
	char name[MODEL_GGUF_NAME_MAX + 1], shape[96], size[TOOL_NUMBER_BYTES];

	for (uint64_t i = 0; i < model_gguf_tensor_count(gguf); i++) {
		const struct model_gguf_tensor *tensor = model_gguf_tensor_at(gguf, i);

		show_shape(shape, sizeof(shape), tensor);
		tool_table_row(table);
		tool_table_cell(table, "%s", copy_name(name, tensor->name));
		tool_table_cell(table, "%s", kern_type_info((uint32_t)tensor->type)->name);
		tool_table_cell(table, "%s", shape);
		tool_table_cell(table, "%s", tool_count(size, tensor->size_bytes));
	}
	tool_table_print(table, stdout);
}

static void print_totals(const struct model_gguf *gguf)
{
	struct totals totals = add_up(gguf);
	struct tool_table *table = tool_table_new("type|>tensors|>bytes");
	char count[TOOL_NUMBER_BYTES], size[TOOL_NUMBER_BYTES];

	for (uint32_t type = 0; type < KERN_TYPE_END; type++) {
		if (totals.tensors[type] == 0)
			continue;
		tool_table_row(table);
		tool_table_cell(table, "%s", kern_type_info(type)->name);
		tool_table_cell(table, "%" PRIu64, totals.tensors[type]);
		tool_table_cell(table, "%s", tool_bytes(size, totals.bytes_of[type]));
	}
	tool_table_title(stdout, "%s parameters in %s", tool_count(count, totals.parameters),
		tool_bytes(size, totals.bytes));
	tool_table_print(table, stdout);
}

/* ---- as JSON ------------------------------------------------------------------------------------------- */

static cJSON *json_value(const struct model_gguf *gguf, const struct model_gguf_key *key)
{
	char name[MODEL_GGUF_NAME_MAX + 1], *text;
	struct model_text value;
	cJSON *item;

	if (key->type == MODEL_GGUF_BOOL)
		return cJSON_CreateBool(key->raw.bytes[0] != 0);
	if (key->type == MODEL_GGUF_ARRAY) {
		item = cJSON_CreateObject();
		cJSON_AddNumberToObject(item, "count", (double)key->count);
		return item;
	}
	if (key->type != MODEL_GGUF_STRING ||
		model_gguf_text(gguf, copy_name(name, key->name), &value) < 0)
		return cJSON_CreateNumber(number_of(gguf, key));
	text = strndup(value.bytes, value.len);
	item = cJSON_CreateString(text ? text : "");
	free(text);
	return item;
}

static void print_json(const struct model_gguf *gguf)
{
	struct totals totals = add_up(gguf);
	cJSON *root = cJSON_CreateObject(), *keys = cJSON_AddObjectToObject(root, "keys");
	cJSON *tensors;
	char name[MODEL_GGUF_NAME_MAX + 1], *text;

	cJSON_AddNumberToObject(root, "parameters", (double)totals.parameters);
	cJSON_AddNumberToObject(root, "bytes", (double)totals.bytes);
	for (uint64_t i = 0; i < model_gguf_key_count(gguf); i++) {
		const struct model_gguf_key *key = model_gguf_key_at(gguf, i);

		cJSON_AddItemToObject(keys, copy_name(name, key->name), json_value(gguf, key));
	}
	tensors = cJSON_AddArrayToObject(root, "tensors");
	for (uint64_t i = 0; i < model_gguf_tensor_count(gguf); i++) {
		const struct model_gguf_tensor *tensor = model_gguf_tensor_at(gguf, i);
		cJSON *item = cJSON_CreateObject(), *shape;

		cJSON_AddStringToObject(item, "name", copy_name(name, tensor->name));
		cJSON_AddStringToObject(item, "type", kern_type_info((uint32_t)tensor->type)->name);
		shape = cJSON_AddArrayToObject(item, "shape");
		for (uint32_t d = 0; d < tensor->dims; d++)
			cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)tensor->dim[d]));
		cJSON_AddNumberToObject(item, "bytes", (double)tensor->size_bytes);
		cJSON_AddItemToArray(tensors, item);
	}
	text = cJSON_Print(root);
	puts(text ? text : "{}");
	cJSON_free(text);
	cJSON_Delete(root);
}

static const struct argp info_argp = {
	.options = options,
	.parser = parse,
	.args_doc = "FILE.gguf",
	.doc = "Shows what a GGUF file holds.",
};

int attnquant_info_command(int argc, char **argv)
{
	struct info info = { 0 };
	struct model_gguf *gguf;

	tool_args_parse(&info_argp, argc, argv, &info);
	if (model_gguf_open(&gguf, info.path) < 0)
		tool_die(TOOL_FAILED, "%s", base_error_message());
	if (info.json) {
		print_json(gguf);
	} else {
		print_keys(gguf);
		if (info.all)
			print_tensors(gguf);
		print_totals(gguf);
	}
	model_gguf_close(gguf);
	return TOOL_OK;
}
