/*
 * Reads safetensors files; see attnquant_safetensors.h. A file is a 64-bit length, a JSON
 * object of that length, which gives each tensor its type, shape and range of bytes, and the
 * data.
 */
#include "tools/attnquant_safetensors.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/tool_text.h"

enum { HEADER_MAX = 100 << 20, FILES_MAX = 1024, TENSORS_MAX = 1 << 20 };

static const struct {
	const char *name;
	enum kern_type type;
} DTYPES[] = {
	{ "F32", KERN_F32 },
	{ "F16", KERN_F16 },
	{ "BF16", KERN_BF16 },
};

/* A whole number that a double holds exactly. */
static bool whole(const cJSON *item, uint64_t *value)
{
	if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble > 0x1p53)
		return false;
	*value = (uint64_t)item->valuedouble;
	return (double)*value == item->valuedouble;
}

static int read_type(struct attnquant_safetensor *tensor, const cJSON *entry)
{
	const char *dtype = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(entry, "dtype"));

	for (size_t i = 0; dtype && i < sizeof(DTYPES) / sizeof(*DTYPES); i++) {
		if (strcmp(dtype, DTYPES[i].name) == 0) {
			tensor->type = DTYPES[i].type;
			return 0;
		}
	}
	return base_fail(ENOTSUP, "tensor '%s' is of type '%s'; F32, F16 and BF16 are read",
		tensor->name, dtype ? dtype : "");
}

static int read_entry(struct attnquant_safetensor *tensor, const cJSON *entry, uint64_t data_bytes)
{
	const cJSON *shape = cJSON_GetObjectItemCaseSensitive(entry, "shape");
	const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(entry, "data_offsets");
	const cJSON *item;
	uint64_t bytes;
	int rc = read_type(tensor, entry);

	if (rc < 0)
		return rc;
	bytes = tensor->type == KERN_F32 ? 4 : 2;
	if (!cJSON_IsArray(shape) || cJSON_GetArraySize(shape) > 4)
		return base_fail(
			EBADMSG, "tensor '%s' has no shape of at most 4 dimensions", tensor->name);
	cJSON_ArrayForEach(item, shape) {
		uint64_t *dim = &tensor->shape[tensor->dims++];

		if (!whole(item, dim) || __builtin_mul_overflow(bytes, *dim, &bytes))
			return base_fail(EBADMSG, "tensor '%s' has a shape that makes no sense",
				tensor->name);
	}
	if (!whole(cJSON_GetArrayItem(offsets, 0), &tensor->begin) ||
		!whole(cJSON_GetArrayItem(offsets, 1), &tensor->end) ||
		tensor->begin > tensor->end || tensor->end > data_bytes)
		return base_fail(EBADMSG, "tensor '%s' lies outside of its file", tensor->name);
	if (tensor->end - tensor->begin != bytes)
		return base_fail(EBADMSG,
			"tensor '%s' has %" PRIu64 " bytes where its shape needs %" PRIu64,
			tensor->name, tensor->end - tensor->begin, bytes);
	return 0;
}

static int by_begin(const void *left, const void *right)
{
	const struct attnquant_safetensor *a = left, *b = right;

	if (a->begin != b->begin)
		return a->begin < b->begin ? -1 : 1;
	return a->end < b->end ? -1 : a->end > b->end;
}

static int by_name(const void *left, const void *right)
{
	const struct attnquant_safetensor *a = left, *b = right;

	return strcmp(a->name, b->name);
}

/* The tensors of one file, in order, must fill its data exactly. */
static int check_dense(struct attnquant_safetensor *tensors, uint32_t count, uint64_t data_bytes)
{
	uint64_t at = 0;

	qsort(tensors, count, sizeof(*tensors), by_begin);
	for (uint32_t i = 0; i < count; i++) {
		if (tensors[i].begin != at)
			return base_fail(EBADMSG, "tensor '%s' %s the one before it",
				tensors[i].name,
				tensors[i].begin < at ? "overlaps" : "leaves a hole after");
		at = tensors[i].end;
	}
	if (at != data_bytes)
		return base_fail(EBADMSG, "%" PRIu64 " bytes at its end belong to no tensor",
			data_bytes - at);
	return 0;
}

static int add_entries(struct attnquant_safetensors *all, const cJSON *header,
	const unsigned char *data, uint64_t data_bytes)
{
	uint32_t first = all->count, room = first + (uint32_t)cJSON_GetArraySize(header);
	const cJSON *entry;
	int rc = 0;

	if (room > TENSORS_MAX)
		return base_fail(E2BIG, "more than %d tensors", TENSORS_MAX);
	all->tensors = realloc(all->tensors, (room + 1) * sizeof(*all->tensors));
	if (!all->tensors)
		tool_die(TOOL_FAILED, "out of memory");
	cJSON_ArrayForEach(entry, header) {
		struct attnquant_safetensor *tensor = &all->tensors[all->count];

		if (strcmp(entry->string, "__metadata__") == 0)
			continue;
		*tensor = (struct attnquant_safetensor){ .name = strdup(entry->string) };
		if (!tensor->name)
			tool_die(TOOL_FAILED, "out of memory");
		all->count++;
		rc = read_entry(tensor, entry, data_bytes);
		if (rc < 0)
			return rc;
		tensor->data = data + tensor->begin;
	}
	return check_dense(all->tensors + first, all->count - first, data_bytes);
}

static int add_file(struct attnquant_safetensors *all, const char *path)
{
	struct attnquant_file *file;
	uint64_t header_bytes;
	cJSON *header;
	int rc;

	if (all->file_count == FILES_MAX)
		return base_fail(E2BIG, "more than %d files", FILES_MAX);
	file = &all->files[all->file_count];
	rc = attnquant_file_open(file, path);
	if (rc < 0)
		return rc;
	all->file_count++;
	if (file->size < sizeof(header_bytes))
		return base_fail(EBADMSG, "%s: too short for a safetensors file", path);
	memcpy(&header_bytes, file->bytes, sizeof(header_bytes));
	if (header_bytes > HEADER_MAX || header_bytes > file->size - sizeof(header_bytes))
		return base_fail(
			EBADMSG, "%s: claims a header of %" PRIu64 " bytes", path, header_bytes);
	header = cJSON_ParseWithLength(
		(const char *)file->bytes + sizeof(header_bytes), header_bytes);
	if (!cJSON_IsObject(header)) {
		cJSON_Delete(header);
		return base_fail(EBADMSG, "%s: its header is no JSON object", path);
	}
	rc = add_entries(all, header, file->bytes + sizeof(header_bytes) + header_bytes,
		file->size - sizeof(header_bytes) - header_bytes);
	cJSON_Delete(header);
	return rc < 0 ? base_fail_within(-rc, "%s", path) : 0;
}

/* Names in an index are plain: they do not lead out of the folder. */
static int add_shard(struct attnquant_safetensors *all, const char *folder, const char *name,
	char ***seen, uint32_t *seen_count)
{
	char *path;
	int rc;

	for (uint32_t i = 0; i < *seen_count; i++)
		if (strcmp((*seen)[i], name) == 0)
			return 0;
	if (strchr(name, '/') || *seen_count == FILES_MAX)
		return base_fail(EBADMSG,
			"the index names a file '%s' that is not in the folder, or too many", name);
	*seen = realloc(*seen, (*seen_count + 1) * sizeof(**seen));
	if (!*seen || !((*seen)[*seen_count] = strdup(name)))
		tool_die(TOOL_FAILED, "out of memory");
	++*seen_count;
	path = attnquant_join(folder, name);
	rc = add_file(all, path);
	free(path);
	return rc;
}

static int add_shards(struct attnquant_safetensors *all, const char *folder, const char *index_path)
{
	struct attnquant_file file;
	char **seen = NULL;
	uint32_t seen_count = 0;
	cJSON *index, *map;
	const cJSON *entry;
	int rc = attnquant_file_open(&file, index_path);

	if (rc < 0)
		return rc;
	index = cJSON_ParseWithLength((const char *)file.bytes, file.size);
	attnquant_file_close(&file);
	map = cJSON_GetObjectItemCaseSensitive(index, "weight_map");
	if (!cJSON_IsObject(map))
		rc = base_fail(EBADMSG, "%s: no weight_map in it", index_path);
	cJSON_ArrayForEach(entry, map)
		if (rc == 0)
			rc = cJSON_IsString(entry) ?
				add_shard(all, folder, entry->valuestring, &seen, &seen_count) :
				base_fail(EBADMSG, "%s: '%s' has no file name", index_path,
					entry->string);
	cJSON_Delete(index);
	for (uint32_t i = 0; i < seen_count; i++)
		free(seen[i]);
	free(seen);
	return rc;
}

int attnquant_safetensors_open(struct attnquant_safetensors *all, const char *folder)
{
	char *single = attnquant_join(folder, "model.safetensors");
	char *index = attnquant_join(folder, "model.safetensors.index.json");
	int rc;

	*all = (struct attnquant_safetensors){ .files = calloc(FILES_MAX, sizeof(*all->files)) };
	if (!all->files)
		tool_die(TOOL_FAILED, "out of memory");
	if (attnquant_exists(index))
		rc = add_shards(all, folder, index);
	else
		rc = add_file(all, single);
	free(single);
	free(index);
	if (all->count > 0)
		qsort(all->tensors, all->count, sizeof(*all->tensors), by_name);
	for (uint32_t i = 1; rc == 0 && i < all->count; i++)
		if (strcmp(all->tensors[i - 1].name, all->tensors[i].name) == 0)
			rc = base_fail(EBADMSG, "tensor '%s' appears twice", all->tensors[i].name);
	if (rc < 0)
		attnquant_safetensors_close(all);
	return rc;
}

void attnquant_safetensors_close(struct attnquant_safetensors *all)
{
	for (uint32_t i = 0; i < all->file_count; i++)
		attnquant_file_close(&all->files[i]);
	for (uint32_t i = 0; i < all->count; i++)
		free(all->tensors[i].name);
	free(all->tensors);
	free(all->files);
	*all = (struct attnquant_safetensors){ 0 };
}

struct attnquant_safetensor *attnquant_safetensors_find(
	struct attnquant_safetensors *all, const char *name)
{
	struct attnquant_safetensor key = { .name = (char *)(uintptr_t)name }, *found;

	if (all->count == 0)
		return NULL;
	found = bsearch(&key, all->tensors, all->count, sizeof(*all->tensors), by_name);
	if (found)
		found->used = true;
	return found;
}
