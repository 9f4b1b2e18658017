/*
 * Takes a GGUF file apart. Control thread, at load; see model_gguf.h for what is refused.
 *
 * The order of the file: header, keys, tensor descriptions, padding, tensor data. One pass checks everything and
 * fills two tables, keys and tensors, each with a hash table of names beside it. Nothing is copied: names and values
 * stay in the mapping.
 */
#include "model/model_gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base_error.h"
#include "base/base_fault.h"
#include "base/base_rand.h"
#include "model/model_gguf_internal.h"

enum { HEADER_BYTES = 24, ALIGNMENT_DEFAULT = 32, ALIGNMENT_MAX = 1 << 20 };

/* Names to indices: open addressing, at most half full; a slot holds index + 1. */
struct name_table {
	uint32_t *slots;
	uint64_t mask;
};

struct model_gguf {
	const unsigned char *memory;
	size_t size_bytes;
	bool mapped;
	int fault_handle;
	_Atomic int damaged;
	uint64_t hash_seed;
	uint64_t key_count, tensor_count;
	struct model_gguf_key *keys;
	struct model_gguf_tensor *tensors;
	struct name_table key_names, tensor_names;
};

/* ---- names ------------------------------------------------------------------------------------------------ */

/* Keyed, so that a file cannot be made to collide everywhere. */
static uint64_t name_hash(uint64_t seed, const char *bytes, size_t len)
{
	uint64_t hash = base_mix64(seed ^ len);

	while (len > 0) {
		uint64_t word = 0;
		size_t part = len < sizeof(word) ? len : sizeof(word);

		memcpy(&word, bytes, part);
		hash = base_mix64(hash ^ word) + seed;
		bytes += part;
		len -= part;
	}
	return hash;
}

static int name_table_create(struct name_table *table, uint64_t count)
{
	uint64_t slots = 16;

	while (slots < 2 * count)
		slots *= 2;
	table->mask = slots - 1;
	table->slots = calloc(slots, sizeof(*table->slots));
	return table->slots ? 0 : base_fail(ENOMEM, "no memory for the names of a GGUF file");
}

static const struct model_text *key_name(const struct model_gguf *gguf, uint32_t index)
{
	return &gguf->keys[index].name;
}

static const struct model_text *tensor_name(const struct model_gguf *gguf, uint32_t index)
{
	return &gguf->tensors[index].name;
}

typedef const struct model_text *name_of(const struct model_gguf *gguf, uint32_t index);

/* The slot that holds the name, or the empty one where it belongs. */
static uint32_t *name_slot(const struct model_gguf *gguf, const struct name_table *table, name_of *of,
	const char *bytes, size_t len)
{
	uint64_t at = name_hash(gguf->hash_seed, bytes, len) & table->mask;

	while (table->slots[at] != 0) {
		const struct model_text *name = of(gguf, table->slots[at] - 1);

		if (name->len == len && memcmp(name->bytes, bytes, len) == 0)
			break;
		at = (at + 1) & table->mask;
	}
	return &table->slots[at];
}

/* False: the name is there already. */
static bool name_add(struct model_gguf *gguf, struct name_table *table, name_of *of,
	struct model_text name, uint64_t index)
{
	uint32_t *slot = name_slot(gguf, table, of, name.bytes, name.len);

	if (*slot != 0)
		return false;
	*slot = (uint32_t)index + 1;
	return true;
}

static bool name_is_printable(struct model_text name)
{
	for (size_t i = 0; i < name.len; i++)
		if (name.bytes[i] <= 0x20 || name.bytes[i] > 0x7e)
			return false;
	return true;
}

/* kind: "key" or "tensor". */
static int take_name(struct model_gguf_cursor *cursor, struct model_text *name, const char *kind,
	uint64_t index)
{
	if (!model_gguf_take_text(cursor, name))
		return base_fail(EBADMSG, "the file ends inside the name of %s %" PRIu64, kind, index);
	if (name->len == 0 || name->len > MODEL_GGUF_NAME_MAX)
		return base_fail(EBADMSG, "the name of %s %" PRIu64 " has %zu bytes, 1 to %d are allowed", kind,
			index, name->len, MODEL_GGUF_NAME_MAX);
	if (!name_is_printable(*name))
		return base_fail(EBADMSG, "the name of %s %" PRIu64 " holds bytes that are not printable ASCII",
			kind, index);
	return 0;
}

/* ---- keys ------------------------------------------------------------------------------------------------- */

static int skip_array(struct model_gguf_cursor *cursor, struct model_gguf_key *key, const char *name)
{
	uint32_t type;
	uint64_t count;
	size_t element_bytes;
	struct model_text text;

	if (!model_gguf_take(cursor, &type, sizeof(type)) || !model_gguf_take(cursor, &count, sizeof(count)))
		return base_fail(EBADMSG, "the file ends inside the array of key '%s'", name);
	if (type == MODEL_GGUF_ARRAY)
		return base_fail(EBADMSG, "key '%s' is an array of arrays, which is not read", name);
	element_bytes = type == MODEL_GGUF_STRING ? sizeof(uint64_t) : model_gguf_value_bytes(type);
	if (element_bytes == 0)
		return base_fail(EBADMSG, "key '%s' is an array of the unknown type %" PRIu32, name, type);
	if (count > model_gguf_left(cursor) / element_bytes)
		return base_fail(EBADMSG, "key '%s' claims %" PRIu64 " elements of at least %zu bytes, but only %zu "
			"bytes of the file are left", name, count, element_bytes, model_gguf_left(cursor));
	key->element_type = (enum model_gguf_value)type;
	key->count = count;
	if (type != MODEL_GGUF_STRING) {
		model_gguf_skip(cursor, count * element_bytes);
		return 0;
	}
	for (uint64_t i = 0; i < count; i++)
		if (!model_gguf_take_text(cursor, &text))
			return base_fail(EBADMSG, "key '%s': string %" PRIu64 " of %" PRIu64 " reaches past the end of "
				"the file", name, i, count);
	return 0;
}

static int skip_value(struct model_gguf_cursor *cursor, struct model_gguf_key *key, const char *name)
{
	uint32_t type = (uint32_t)key->type;
	struct model_text text;

	if (type == MODEL_GGUF_ARRAY)
		return skip_array(cursor, key, name);
	if (type == MODEL_GGUF_STRING) {
		if (!model_gguf_take_text(cursor, &text))
			return base_fail(EBADMSG, "key '%s': its string reaches past the end of the file", name);
		return 0;
	}
	if (model_gguf_value_bytes(type) == 0)
		return base_fail(EBADMSG, "key '%s' has the unknown type %" PRIu32, name, type);
	if (!model_gguf_skip(cursor, model_gguf_value_bytes(type)))
		return base_fail(EBADMSG, "the file ends inside the value of key '%s'", name);
	if (type == MODEL_GGUF_BOOL && cursor->at[-1] > 1)
		return base_fail(EBADMSG, "key '%s': a truth value is 0 or 1, not %u", name, cursor->at[-1]);
	return 0;
}

static int read_key(struct model_gguf *gguf, struct model_gguf_cursor *cursor, uint64_t index)
{
	struct model_gguf_key *key = &gguf->keys[index];
	char name[MODEL_GGUF_NAME_MAX + 1];
	uint32_t type;
	int rc = take_name(cursor, &key->name, "key", index);

	if (rc < 0)
		return rc;
	memcpy(name, key->name.bytes, key->name.len);
	name[key->name.len] = '\0';
	if (!model_gguf_take(cursor, &type, sizeof(type)))
		return base_fail(EBADMSG, "the file ends inside the type of key '%s'", name);
	key->type = (enum model_gguf_value)type;
	key->raw.bytes = (const char *)cursor->at;
	rc = skip_value(cursor, key, name);
	if (rc < 0)
		return rc;
	key->raw.len = (size_t)((const char *)cursor->at - key->raw.bytes);
	if (!name_add(gguf, &gguf->key_names, key_name, key->name, index))
		return base_fail(EBADMSG, "key '%s' appears twice", name);
	return 0;
}

/* ---- tensors ---------------------------------------------------------------------------------------------- */

static uint64_t align_up(uint64_t value, uint64_t alignment)
{
	return (value + alignment - 1) & ~(alignment - 1);
}

static int take_shape(struct model_gguf_cursor *cursor, struct model_gguf_tensor *tensor, const char *name)
{
	uint64_t elements = 1;

	if (!model_gguf_take(cursor, &tensor->dims, sizeof(tensor->dims)))
		return base_fail(EBADMSG, "the file ends inside the shape of tensor '%s'", name);
	if (tensor->dims < 1 || tensor->dims > MODEL_GGUF_DIMS_MAX)
		return base_fail(EBADMSG, "tensor '%s' has %" PRIu32 " dimensions, 1 to %d are allowed", name,
			tensor->dims, MODEL_GGUF_DIMS_MAX);
	for (uint32_t i = 0; i < MODEL_GGUF_DIMS_MAX; i++)
		tensor->dim[i] = 1;
	for (uint32_t i = 0; i < tensor->dims; i++) {
		if (!model_gguf_take(cursor, &tensor->dim[i], sizeof(tensor->dim[i])))
			return base_fail(EBADMSG, "the file ends inside the shape of tensor '%s'", name);
		if (tensor->dim[i] == 0)
			return base_fail(EBADMSG, "tensor '%s': dimension %" PRIu32 " is 0", name, i);
		if (__builtin_mul_overflow(elements, tensor->dim[i], &elements))
			return base_fail(EBADMSG, "tensor '%s': the product of its dimensions exceeds 64 bits", name);
	}
	return 0;
}

/* Fills type and size. Sizes beyond the file end here, so that sums of sizes cannot overflow later. */
static int set_type(const struct model_gguf *gguf, struct model_gguf_tensor *tensor, uint32_t type,
	const char *name)
{
	const struct kern_type_info *info = kern_type_info(type);
	uint64_t rows = tensor->dim[1] * tensor->dim[2] * tensor->dim[3];
	uint64_t size_bytes;
	size_t row_bytes;

	if (!info)
		return base_fail(EBADMSG, "tensor '%s' has type %" PRIu32 ", which this build does not know", name,
			type);
	if (tensor->dim[0] % info->block_elements != 0)
		return base_fail(EBADMSG, "tensor '%s': rows of %" PRIu64 " elements are no whole %s blocks of %"
			PRIu32, name, tensor->dim[0], info->name, info->block_elements);
	row_bytes = kern_row_bytes((enum kern_type)type, tensor->dim[0]);
	if (row_bytes == 0 || __builtin_mul_overflow((uint64_t)row_bytes, rows, &size_bytes) ||
			size_bytes > gguf->size_bytes)
		return base_fail(EBADMSG, "tensor '%s' is larger than the file, which has %zu bytes", name,
			gguf->size_bytes);
	tensor->type = (enum kern_type)type;
	tensor->size_bytes = (size_t)size_bytes;
	return 0;
}

/* Tensors lie one after the other with nothing between them but padding: *end is where the last one ended. */
static int check_offset(const struct model_gguf_tensor *tensor, uint64_t offset, uint64_t alignment,
	uint64_t *end, const char *name)
{
	uint64_t expected = align_up(*end, alignment);

	if (offset % alignment != 0)
		return base_fail(EBADMSG, "tensor '%s': its offset %" PRIu64 " is not aligned to %" PRIu64, name,
			offset, alignment);
	if (offset < expected)
		return base_fail(EBADMSG, "tensor '%s' at offset %" PRIu64 " overlaps the tensors before it, which "
			"end at %" PRIu64, name, offset, *end);
	if (offset > expected)
		return base_fail(EBADMSG, "tensor '%s' at offset %" PRIu64 " leaves a hole: the tensors before it end "
			"at %" PRIu64, name, offset, *end);
	*end = offset + tensor->size_bytes;
	return 0;
}

static int read_tensor(struct model_gguf *gguf, struct model_gguf_cursor *cursor, uint64_t index,
	uint64_t alignment, uint64_t *end)
{
	struct model_gguf_tensor *tensor = &gguf->tensors[index];
	char name[MODEL_GGUF_NAME_MAX + 1];
	uint32_t type;
	uint64_t offset;
	int rc = take_name(cursor, &tensor->name, "tensor", index);

	if (rc < 0)
		return rc;
	memcpy(name, tensor->name.bytes, tensor->name.len);
	name[tensor->name.len] = '\0';
	rc = take_shape(cursor, tensor, name);
	if (rc < 0)
		return rc;
	if (!model_gguf_take(cursor, &type, sizeof(type)) || !model_gguf_take(cursor, &offset, sizeof(offset)))
		return base_fail(EBADMSG, "the file ends inside the description of tensor '%s'", name);
	rc = set_type(gguf, tensor, type, name);
	if (rc < 0)
		return rc;
	if (!name_add(gguf, &gguf->tensor_names, tensor_name, tensor->name, index))
		return base_fail(EBADMSG, "tensor '%s' appears twice", name);
	return check_offset(tensor, offset, alignment, end, name);
}

/* Offsets are known to be dense by now; what is left is that the file reaches as far, and not farther. */
static int place_tensors(struct model_gguf *gguf, uint64_t infos_end, uint64_t alignment)
{
	uint64_t end = infos_end;

	for (uint64_t i = 0; i < gguf->tensor_count; i++) {
		struct model_gguf_tensor *tensor = &gguf->tensors[i];
		uint64_t start = align_up(end, alignment);

		end = start + tensor->size_bytes;
		if (end > gguf->size_bytes)
			return base_fail(EBADMSG, "tensor '%.*s' ends %" PRIu64 " bytes past the end of the file: it was "
				"cut short", (int)tensor->name.len, tensor->name.bytes, end - gguf->size_bytes);
		tensor->data = gguf->memory + start;
	}
	if (gguf->size_bytes > align_up(end, alignment))
		return base_fail(EBADMSG, "%" PRIu64 " bytes follow the last tensor, where nothing belongs",
			gguf->size_bytes - end);
	return 0;
}

/* ---- the whole file --------------------------------------------------------------------------------------- */

static int read_header(struct model_gguf *gguf, struct model_gguf_cursor *cursor)
{
	char magic[4] = "";
	uint32_t version = 0;

	if (gguf->size_bytes < HEADER_BYTES)
		return base_fail(EBADMSG, "%zu bytes are too few for a GGUF file, whose header has %d",
			gguf->size_bytes, HEADER_BYTES);
	model_gguf_take(cursor, magic, sizeof(magic));
	model_gguf_take(cursor, &version, sizeof(version));
	model_gguf_take(cursor, &gguf->tensor_count, sizeof(gguf->tensor_count));
	model_gguf_take(cursor, &gguf->key_count, sizeof(gguf->key_count));
	if (memcmp(magic, "GGUF", sizeof(magic)) != 0)
		return base_fail(EBADMSG, "not a GGUF file: it begins with other letters");
	if (version >> 16 != 0)
		return base_fail(EBADMSG, "a big-endian GGUF file, which is not read");
	if (version != 2 && version != 3)
		return base_fail(EBADMSG, "GGUF version %" PRIu32 " is not read, versions 2 and 3 are", version);
	if (gguf->tensor_count > MODEL_GGUF_TENSORS_MAX)
		return base_fail(EBADMSG, "the file claims %" PRIu64 " tensors, at most %d are read",
			gguf->tensor_count, MODEL_GGUF_TENSORS_MAX);
	if (gguf->key_count > MODEL_GGUF_KEYS_MAX)
		return base_fail(EBADMSG, "the file claims %" PRIu64 " keys, at most %d are read", gguf->key_count,
			MODEL_GGUF_KEYS_MAX);
	return 0;
}

static int take_tables(struct model_gguf *gguf)
{
	int rc;

	gguf->keys = calloc(gguf->key_count + 1, sizeof(*gguf->keys));
	gguf->tensors = calloc(gguf->tensor_count + 1, sizeof(*gguf->tensors));
	if (!gguf->keys || !gguf->tensors)
		return base_fail(ENOMEM, "no memory for the tables of a GGUF file");
	rc = name_table_create(&gguf->key_names, gguf->key_count);
	if (rc == 0)
		rc = name_table_create(&gguf->tensor_names, gguf->tensor_count);
	return rc;
}

static int read_alignment(const struct model_gguf *gguf, uint64_t *alignment)
{
	uint32_t value = ALIGNMENT_DEFAULT;
	int rc = model_gguf_u32(gguf, "general.alignment", &value);

	if (rc < 0 && rc != -ENOENT)
		return rc;
	if (value < 8 || value > ALIGNMENT_MAX || (value & (value - 1)) != 0)
		return base_fail(EBADMSG, "general.alignment is %" PRIu32 ", which is no power of two from 8 to %d",
			value, ALIGNMENT_MAX);
	*alignment = value;
	return 0;
}

static int read_all(struct model_gguf *gguf)
{
	struct model_gguf_cursor cursor = { gguf->memory, gguf->memory + gguf->size_bytes };
	uint64_t alignment = ALIGNMENT_DEFAULT, end = 0;
	int rc = read_header(gguf, &cursor);

	if (rc == 0)
		rc = take_tables(gguf);
	for (uint64_t i = 0; rc == 0 && i < gguf->key_count; i++)
		rc = read_key(gguf, &cursor, i);
	if (rc == 0)
		rc = read_alignment(gguf, &alignment);
	for (uint64_t i = 0; rc == 0 && i < gguf->tensor_count; i++)
		rc = read_tensor(gguf, &cursor, i, alignment, &end);
	if (rc == 0)
		rc = place_tensors(gguf, (uint64_t)(cursor.at - gguf->memory), alignment);
	return rc;
}

int model_gguf_open_memory(struct model_gguf **gguf, const void *memory, size_t size_bytes)
{
	struct model_gguf *made = calloc(1, sizeof(*made));
	int rc;

	if (!made)
		return base_fail(ENOMEM, "no memory for a GGUF file");
	made->memory = memory;
	made->size_bytes = size_bytes;
	if (getrandom(&made->hash_seed, sizeof(made->hash_seed), GRND_NONBLOCK) < 0)
		made->hash_seed = (uint64_t)(uintptr_t)made;
	rc = read_all(made);
	if (rc < 0) {
		model_gguf_close(made);
		return rc;
	}
	*gguf = made;
	return 0;
}

/* Maps the file. *damaged is raised when the mapping faults, from here on. */
static int map_file(struct model_gguf *gguf, int fd)
{
	struct stat status;
	void *memory;

	if (fstat(fd, &status) < 0)
		return base_fail(errno, "its size cannot be read: %s", strerror(errno));
	if (!S_ISREG(status.st_mode))
		return base_fail(EINVAL, "not an ordinary file");
	if (status.st_size < HEADER_BYTES)
		return base_fail(EBADMSG, "%jd bytes are too few for a GGUF file, whose header has %d",
			(intmax_t)status.st_size, HEADER_BYTES);
	memory = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (memory == MAP_FAILED)
		return base_fail(errno, "it cannot be mapped: %s", strerror(errno));
	gguf->memory = memory;
	gguf->size_bytes = (size_t)status.st_size;
	gguf->mapped = true;
	gguf->fault_handle = base_fault_add(memory, gguf->size_bytes, &gguf->damaged);
	return gguf->fault_handle < 0 ? gguf->fault_handle : 0;
}

static int open_file(struct model_gguf *gguf, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	int rc;

	if (fd < 0)
		return base_fail(errno, "%s", strerror(errno));
	rc = map_file(gguf, fd);
	close(fd);
	if (rc == 0 && getrandom(&gguf->hash_seed, sizeof(gguf->hash_seed), GRND_NONBLOCK) < 0)
		gguf->hash_seed = (uint64_t)(uintptr_t)gguf;
	if (rc == 0)
		rc = read_all(gguf);
	if (rc == 0 && model_gguf_damaged(gguf))
		rc = base_fail(EBADMSG, "the file was truncated while it was read");
	return rc;
}

int model_gguf_open(struct model_gguf **gguf, const char *path)
{
	struct model_gguf *made;
	int rc = base_fault_install();

	if (rc < 0)
		return rc;
	made = calloc(1, sizeof(*made));
	if (!made)
		return base_fail(ENOMEM, "no memory for a GGUF file");
	made->fault_handle = -1;
	rc = open_file(made, path);
	if (rc < 0) {
		model_gguf_close(made);
		return base_fail_within(-rc, "%s", path);
	}
	*gguf = made;
	return 0;
}

void model_gguf_close(struct model_gguf *gguf)
{
	if (!gguf)
		return;
	free(gguf->tensor_names.slots);
	free(gguf->key_names.slots);
	free(gguf->tensors);
	free(gguf->keys);
	if (gguf->mapped) {
		if (gguf->fault_handle >= 0)
			base_fault_remove(gguf->fault_handle);
		munmap((void *)(uintptr_t)gguf->memory, gguf->size_bytes);
	}
	free(gguf);
}

bool model_gguf_damaged(const struct model_gguf *gguf)
{
	/* Pairs with R3 in base_fault.c: who sees the flag finds the zeros mapped. */
	return atomic_load_explicit(&gguf->damaged, memory_order_acquire) != 0;
}

uint64_t model_gguf_tensor_count(const struct model_gguf *gguf)
{
	return gguf->tensor_count;
}

const struct model_gguf_tensor *model_gguf_tensor_at(const struct model_gguf *gguf, uint64_t index)
{
	return index < gguf->tensor_count ? &gguf->tensors[index] : NULL;
}

const struct model_gguf_tensor *model_gguf_tensor(const struct model_gguf *gguf, const char *name)
{
	uint32_t slot = *name_slot(gguf, &gguf->tensor_names, tensor_name, name, strlen(name));

	return slot ? &gguf->tensors[slot - 1] : NULL;
}

uint64_t model_gguf_key_count(const struct model_gguf *gguf)
{
	return gguf->key_count;
}

const struct model_gguf_key *model_gguf_key_at(const struct model_gguf *gguf, uint64_t index)
{
	return index < gguf->key_count ? &gguf->keys[index] : NULL;
}

const struct model_gguf_key *model_gguf_key(const struct model_gguf *gguf, const char *name)
{
	uint32_t slot = *name_slot(gguf, &gguf->key_names, key_name, name, strlen(name));

	return slot ? &gguf->keys[slot - 1] : NULL;
}
