/*
 * Typed access to the keys of a GGUF file. Control thread, at load.
 *
 * The extents of all values were checked at open; strings inside arrays are checked again when they are walked,
 * because a mapped file may have changed since.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>

#include "base/base_error.h"
#include "model/model_gguf.h"
#include "model/model_gguf_internal.h"

static const struct { const char *name; size_t bytes; } VALUE_TYPES[] = {
	[MODEL_GGUF_U8] = { "u8", 1 },       [MODEL_GGUF_I8] = { "i8", 1 },
	[MODEL_GGUF_U16] = { "u16", 2 },     [MODEL_GGUF_I16] = { "i16", 2 },
	[MODEL_GGUF_U32] = { "u32", 4 },     [MODEL_GGUF_I32] = { "i32", 4 },
	[MODEL_GGUF_F32] = { "f32", 4 },     [MODEL_GGUF_BOOL] = { "bool", 1 },
	[MODEL_GGUF_STRING] = { "text", 0 }, [MODEL_GGUF_ARRAY] = { "array", 0 },
	[MODEL_GGUF_U64] = { "u64", 8 },     [MODEL_GGUF_I64] = { "i64", 8 },
	[MODEL_GGUF_F64] = { "f64", 8 },
};

enum { VALUE_TYPE_END = sizeof(VALUE_TYPES) / sizeof(VALUE_TYPES[0]) };

size_t model_gguf_value_bytes(uint32_t type)
{
	return type < VALUE_TYPE_END ? VALUE_TYPES[type].bytes : 0;
}

const char *model_gguf_value_name(uint32_t type)
{
	return type < VALUE_TYPE_END ? VALUE_TYPES[type].name : "unknown";
}

/* ---- numbers ---------------------------------------------------------------------------------------------- */

/* A number of any type, as an integer where it is one. Integers above INT64_MAX do not fit anything asked for here. */
struct number {
	bool integer, fits;
	int64_t i;
	double f;
};

static uint64_t load_unsigned(const void *bytes, size_t size_bytes)
{
	uint64_t value = 0;

	memcpy(&value, bytes, size_bytes);
	return value;
}

static int64_t load_signed(const void *bytes, size_t size_bytes)
{
	unsigned unused_bits = 64 - 8 * (unsigned)size_bytes;

	return (int64_t)(load_unsigned(bytes, size_bytes) << unused_bits) >> unused_bits;
}

/* False for what is no number. */
static bool load_number(enum model_gguf_value type, const void *bytes, struct number *number)
{
	size_t size_bytes = model_gguf_value_bytes(type);
	uint64_t value;
	float single;

	*number = (struct number){ .integer = true, .fits = true };
	switch (type) {
	case MODEL_GGUF_U8:
	case MODEL_GGUF_U16:
	case MODEL_GGUF_U32:
	case MODEL_GGUF_U64:
		value = load_unsigned(bytes, size_bytes);
		number->fits = value <= INT64_MAX;
		number->i = (int64_t)value;
		number->f = (double)value;
		return true;
	case MODEL_GGUF_I8:
	case MODEL_GGUF_I16:
	case MODEL_GGUF_I32:
	case MODEL_GGUF_I64:
		number->i = load_signed(bytes, size_bytes);
		number->f = (double)number->i;
		return true;
	case MODEL_GGUF_F32:
		memcpy(&single, bytes, sizeof(single));
		number->integer = false;
		number->f = (double)single;
		return true;
	case MODEL_GGUF_F64:
		memcpy(&number->f, bytes, sizeof(number->f));
		number->integer = false;
		return true;
	case MODEL_GGUF_BOOL:
	case MODEL_GGUF_STRING:
	case MODEL_GGUF_ARRAY:
		break;
	}
	return false;
}

static bool fits_range(const struct number *number, int64_t low, int64_t high)
{
	return number->integer && number->fits && number->i >= low && number->i <= high;
}

static bool fits_float(const struct number *number)
{
	return isfinite(number->f) && fabs(number->f) <= (double)__FLT_MAX__;
}

/* ---- scalars ---------------------------------------------------------------------------------------------- */

/* -ENOENT without a message's cost being paid: absence is ordinary. */
static const struct model_gguf_key *find(const struct model_gguf *gguf, const char *name, int *rc)
{
	const struct model_gguf_key *key = model_gguf_key(gguf, name);

	*rc = key ? 0 : -ENOENT;
	return key;
}

static int wrong_type(const struct model_gguf_key *key, const char *wanted)
{
	return base_fail(EBADMSG, "key '%.*s' is %s, not %s", (int)key->name.len, key->name.bytes,
		model_gguf_value_name(key->type), wanted);
}

int model_gguf_u32(const struct model_gguf *gguf, const char *name, uint32_t *value)
{
	struct number number;
	int rc;
	const struct model_gguf_key *key = find(gguf, name, &rc);

	if (!key)
		return rc;
	if (!load_number(key->type, key->raw.bytes, &number) || !number.integer)
		return wrong_type(key, "a whole number");
	if (!fits_range(&number, 0, UINT32_MAX))
		return base_fail(EBADMSG, "key '%s' is %.0f, which does not fit 32 bits without a sign", name,
			number.f);
	*value = (uint32_t)number.i;
	return 0;
}

int model_gguf_f32(const struct model_gguf *gguf, const char *name, float *value)
{
	struct number number;
	int rc;
	const struct model_gguf_key *key = find(gguf, name, &rc);

	if (!key)
		return rc;
	if (!load_number(key->type, key->raw.bytes, &number))
		return wrong_type(key, "a number");
	if (!fits_float(&number))
		return base_fail(EBADMSG, "key '%s' is %g, which is not a finite number of 32 bits", name, number.f);
	*value = (float)number.f;
	return 0;
}

int model_gguf_bool(const struct model_gguf *gguf, const char *name, bool *value)
{
	int rc;
	const struct model_gguf_key *key = find(gguf, name, &rc);

	if (!key)
		return rc;
	if (key->type != MODEL_GGUF_BOOL)
		return wrong_type(key, "a truth value");
	*value = key->raw.bytes[0] != 0;
	return 0;
}

/* The extent checked at open is kept in raw; the length in the file is not believed again. */
int model_gguf_text(const struct model_gguf *gguf, const char *name, struct model_text *value)
{
	int rc;
	const struct model_gguf_key *key = find(gguf, name, &rc);

	if (!key)
		return rc;
	if (key->type != MODEL_GGUF_STRING)
		return wrong_type(key, "text");
	value->bytes = key->raw.bytes + sizeof(uint64_t);
	value->len = key->raw.len - sizeof(uint64_t);
	return 0;
}

/* ---- arrays ----------------------------------------------------------------------------------------------- */

enum { ARRAY_HEAD_BYTES = sizeof(uint32_t) + sizeof(uint64_t) };

/* NULL with *rc set when there is none. The head checked at open is kept in the key, not believed again. */
static const struct model_gguf_key *find_array(const struct model_gguf *gguf, const char *name, int *rc)
{
	const struct model_gguf_key *key = find(gguf, name, rc);

	if (!key || key->type == MODEL_GGUF_ARRAY)
		return key;
	*rc = wrong_type(key, "an array");
	return NULL;
}

static struct model_gguf_cursor array_elements(const struct model_gguf_key *key)
{
	const unsigned char *raw = (const unsigned char *)key->raw.bytes;

	return (struct model_gguf_cursor){ raw + ARRAY_HEAD_BYTES, raw + key->raw.len };
}

int model_gguf_array(const struct model_gguf *gguf, const char *name, enum model_gguf_value *type,
	uint64_t *count)
{
	int rc;
	const struct model_gguf_key *key = find_array(gguf, name, &rc);

	if (!key)
		return rc;
	*type = key->element_type;
	*count = key->count;
	return 0;
}

/* *cursor is 0, then the offset of the next string among the array's elements. */
int model_gguf_array_text(const struct model_gguf *gguf, const char *name, uint64_t *cursor,
	struct model_text *text)
{
	struct model_gguf_cursor from;
	int rc;
	const struct model_gguf_key *key = find_array(gguf, name, &rc);

	if (!key)
		return rc;
	if (key->element_type != MODEL_GGUF_STRING)
		return base_fail(EBADMSG, "key '%s' is an array of %s, not of text", name,
			model_gguf_value_name(key->element_type));
	from = array_elements(key);
	if (!model_gguf_skip(&from, *cursor))
		return base_fail(EINVAL, "a cursor of %" PRIu64 " is not within key '%s'", *cursor, name);
	if (model_gguf_left(&from) == 0)
		return 0;
	if (!model_gguf_take_text(&from, text))
		return base_fail(EBADMSG, "key '%s' changed after the file was opened", name);
	*cursor = (uint64_t)(from.at - array_elements(key).at);
	return 1;
}

/* A numeric array whose count is as wanted, or NULL with *rc set. */
static const struct model_gguf_key *numeric_array(const struct model_gguf *gguf, const char *name,
	uint64_t count, int *rc)
{
	struct number number;
	const struct model_gguf_key *key = find_array(gguf, name, rc);

	if (!key)
		return NULL;
	if (key->count != count)
		*rc = base_fail(ERANGE, "key '%s' has %" PRIu64 " elements where %" PRIu64 " belong", name,
			key->count, count);
	else if (count > 0 && !load_number(key->element_type, array_elements(key).at, &number))
		*rc = base_fail(EBADMSG, "key '%s' is an array of %s, not of numbers", name,
			model_gguf_value_name(key->element_type));
	return *rc < 0 ? NULL : key;
}

int model_gguf_array_i32(const struct model_gguf *gguf, const char *name, int32_t *values, uint64_t count)
{
	struct number number;
	int rc;
	const struct model_gguf_key *key = numeric_array(gguf, name, count, &rc);

	for (uint64_t i = 0; rc == 0 && i < count; i++) {
		load_number(key->element_type,
			array_elements(key).at + i * model_gguf_value_bytes(key->element_type), &number);
		if (!fits_range(&number, INT32_MIN, INT32_MAX))
			rc = base_fail(EBADMSG, "key '%s': element %" PRIu64 " is %g, which is no integer of 32 bits",
				name, i, number.f);
		else
			values[i] = (int32_t)number.i;
	}
	return rc;
}

int model_gguf_array_f32(const struct model_gguf *gguf, const char *name, float *values, uint64_t count)
{
	struct number number;
	int rc;
	const struct model_gguf_key *key = numeric_array(gguf, name, count, &rc);

	for (uint64_t i = 0; rc == 0 && i < count; i++) {
		load_number(key->element_type,
			array_elements(key).at + i * model_gguf_value_bytes(key->element_type), &number);
		if (!fits_float(&number))
			rc = base_fail(EBADMSG, "key '%s': element %" PRIu64 " is %g, which is not a finite number of 32 "
				"bits", name, i, number.f);
		else
			values[i] = (float)number.f;
	}
	return rc;
}
