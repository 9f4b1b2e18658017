/*
 * Traces: parsers and makers. See attnsim_trace.h. Nothing here trusts what it reads.
 */
#include "tools/attnsim_trace.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base_error.h"
#include "base/base_rand.h"

static const char AZURE_HEADER[] = "TIMESTAMP,ContextTokens,GeneratedTokens";
static const int64_t SECOND_NS = 1000000000;
/* A trace spans at most so long: a wrong year is found by it. */
static const int64_t SPAN_MAX_NS = 366 * INT64_C(86400) * 1000000000;

enum { SHOWN = 60 }; /* bytes of a bad line in its message */

/* Where the reader stands: a line of a file. */
struct line {
	const char *name;
	size_t number;
	const char *text;
	size_t length;
};

static int refuse(const struct line *line, const char *what)
{
	return base_fail(EINVAL, "%s:%zu: %s: '%.*s'", line->name, line->number, what,
		(int)(line->length < SHOWN ? line->length : SHOWN), line->text);
}

/* ---- what both formats share ------------------------------------------------------------------ */

static int grow(void **items, size_t *room, size_t item_bytes, size_t needed)
{
	size_t more = *room ? *room : 1024;
	void *grown;

	while (more < needed)
		more *= 2;
	if (more == *room)
		return 0;
	grown = realloc(*items, more * item_bytes);
	if (!grown)
		return base_fail(ENOMEM, "no memory for a trace of %zu entries", needed);
	*items = grown;
	*room = more;
	return 0;
}

static int add(struct attnsim_trace *trace, const struct line *line, struct attnsim_request request)
{
	if (trace->count == ATTNSIM_REQUESTS_MAX)
		return refuse(line, "more than 8388608 requests");
	if (request.prompt == 0 || request.prompt > ATTNSIM_TOKENS_MAX)
		return refuse(line, "a prompt has 1 to 1048576 tokens");
	if (request.output == 0 || request.output > ATTNSIM_TOKENS_MAX)
		return refuse(line, "an answer has 1 to 1048576 tokens");
	if (grow((void **)&trace->requests, &trace->room, sizeof(request), trace->count + 1) < 0)
		return -ENOMEM;
	trace->requests[trace->count++] = request;
	return 0;
}

static int by_arrival(const void *left, const void *right)
{
	const struct attnsim_request *a = left, *b = right;

	return (a->arrival_ns > b->arrival_ns) - (a->arrival_ns < b->arrival_ns);
}

/* Sorted, and counted from the first one. */
static int settle(struct attnsim_trace *trace, const char *name)
{
	int64_t first_ns;

	if (trace->count == 0)
		return base_fail(EINVAL, "%s: no requests in it", name);
	for (size_t i = 1; i < trace->count; i++) {
		if (trace->requests[i].arrival_ns >= trace->requests[i - 1].arrival_ns)
			continue;
		qsort(trace->requests, trace->count, sizeof(*trace->requests), by_arrival);
		break;
	}
	first_ns = trace->requests[0].arrival_ns;
	if (trace->requests[trace->count - 1].arrival_ns - first_ns > SPAN_MAX_NS)
		return base_fail(EINVAL, "%s: its times lie more than a year apart", name);
	for (size_t i = 0; i < trace->count; i++)
		trace->requests[i].arrival_ns -= first_ns;
	return 0;
}

/* ---- Azure ------------------------------------------------------------------------------------ */

/* Digits, at least one and at most `most` of them, and then `end` (0: the line's). */
static bool number(const char **at, const char *stop, unsigned most, char end, uint64_t *value)
{
	unsigned digits = 0;

	*value = 0;
	for (; *at < stop && **at >= '0' && **at <= '9'; ++*at, digits++) {
		if (digits == most)
			return false;
		*value = *value * 10 + (uint64_t)(**at - '0');
	}
	if (digits == 0 || (end ? *at == stop || **at != end : *at != stop))
		return false;
	*at += end != 0;
	return true;
}

/* Days since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms"). */
static int64_t days_from_civil(int64_t year, uint64_t month, uint64_t day)
{
	int64_t y = year - (month <= 2), era = y / 400;
	int64_t of_era = y - era * 400;
	int64_t of_year = (int64_t)((153 * ((month + 9) % 12) + 2) / 5 + day - 1);

	return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

/* 2023-11-16 18:15:46.6805900 and a comma; the fraction may be missing. */
static bool timestamp(const char **at, const char *stop, int64_t *ns)
{
	uint64_t year, month, day, hour, minute, second = 0, unit = SECOND_NS;
	int64_t fraction_ns = 0;

	if (!number(at, stop, 4, '-', &year) || !number(at, stop, 2, '-', &month) ||
		!number(at, stop, 2, ' ', &day) || !number(at, stop, 2, ':', &hour) ||
		!number(at, stop, 2, ':', &minute))
		return false;
	if (year < 1970 || year > 2200 || month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 || minute > 59)
		return false;
	if (*at == stop || **at < '0' || **at > '9')
		return false;
	for (unsigned i = 0; i < 2 && *at < stop && **at >= '0' && **at <= '9'; i++)
		second = second * 10 + (uint64_t)(*(*at)++ - '0');
	if (*at < stop && **at == '.') {
		for (++*at; *at < stop && **at >= '0' && **at <= '9'; ++*at) {
			unit /= 10;
			fraction_ns += (int64_t)(unit * (uint64_t)(**at - '0'));
		}
	}
	if (second > 60 || *at == stop || **at != ',')
		return false;
	++*at;
	*ns = (days_from_civil((int64_t)year, month, day) * 86400 +
		      (int64_t)(hour * 3600 + minute * 60 + second)) *
			SECOND_NS +
		fraction_ns;
	return true;
}

static int azure_line(struct attnsim_trace *trace, const struct line *line)
{
	const char *at = line->text, *stop = at + line->length;
	struct attnsim_request request = { 0 };
	uint64_t prompt, output;

	if (line->number == 1)
		return 0;
	if (!timestamp(&at, stop, &request.arrival_ns))
		return refuse(line, "does not begin with a time such as 2023-11-16 18:15:46.68,");
	if (!number(&at, stop, 9, ',', &prompt) || !number(&at, stop, 9, 0, &output))
		return refuse(line, "two numbers of tokens must follow the time");
	request.prompt = (uint32_t)prompt;
	request.output = (uint32_t)output;
	return add(trace, line, request);
}

/* ---- Mooncake --------------------------------------------------------------------------------- */

/* A whole number of the line's object, from low to high. */
static bool member(const cJSON *object, const char *key, double high, double *value)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);

	if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0.0 && item->valuedouble <= high))
		return false;
	*value = floor(item->valuedouble);
	return true;
}

static int hashes(struct attnsim_trace *trace, const struct line *line, const cJSON *list,
	struct attnsim_request *request)
{
	const cJSON *item;

	request->hash_first = trace->hash_count;
	if (!list)
		return 0;
	if (!cJSON_IsArray(list))
		return refuse(line, "hash_ids is no list");
	cJSON_ArrayForEach(item, list) {
		/* Names are compared only; beyond 2^53 a double could not tell them apart. */
		if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0.0 && item->valuedouble <= 0x1p53))
			return refuse(line, "hash_ids are whole numbers from 0 to 2^53");
		if (grow((void **)&trace->hashes, &trace->hash_room, sizeof(*trace->hashes), trace->hash_count + 1) < 0)
			return -ENOMEM;
		trace->hashes[trace->hash_count++] = (uint64_t)item->valuedouble;
		request->hash_count++;
	}
	return 0;
}

static int mooncake_object(struct attnsim_trace *trace, const struct line *line, const cJSON *object)
{
	struct attnsim_request request = { 0 };
	double time_ms, prompt, output;
	int rc;

	if (!cJSON_IsObject(object))
		return refuse(line, "is no JSON object");
	if (!member(object, "timestamp", 1e12, &time_ms))
		return refuse(line, "needs a timestamp in milliseconds");
	if (!member(object, "input_length", ATTNSIM_TOKENS_MAX, &prompt) ||
		!member(object, "output_length", ATTNSIM_TOKENS_MAX, &output))
		return refuse(line, "needs input_length and output_length from 1 to 1048576");
	request.arrival_ns = (int64_t)(time_ms * 1e6);
	request.prompt = (uint32_t)prompt;
	request.output = (uint32_t)output;
	rc = hashes(trace, line, cJSON_GetObjectItemCaseSensitive(object, "hash_ids"), &request);
	return rc < 0 ? rc : add(trace, line, request);
}

static int mooncake_line(struct attnsim_trace *trace, const struct line *line)
{
	const char *end = NULL;
	cJSON *object = cJSON_ParseWithLengthOpts(line->text, line->length, &end, 0);
	int rc = 0;

	/* Nothing but blanks may follow the object. */
	for (; object && end < line->text + line->length; end++)
		if (*end != ' ' && *end != '\t')
			rc = refuse(line, "something follows the object");
	if (rc == 0)
		rc = mooncake_object(trace, line, object);
	cJSON_Delete(object);
	return rc;
}

/* ---- files ------------------------------------------------------------------------------------ */

static int parse_lines(struct attnsim_trace *trace, const char *name, const char *text, size_t size,
	int (*take)(struct attnsim_trace *, const struct line *))
{
	struct line line = { .name = name };
	int rc = 0;

	for (size_t at = 0; at < size && rc == 0;) {
		const char *end = memchr(text + at, '\n', size - at);
		size_t length = end ? (size_t)(end - text) - at : size - at;

		line.number++;
		line.text = text + at;
		line.length = length > 0 && text[at + length - 1] == '\r' ? length - 1 : length;
		at += length + (end != NULL);
		if (line.length > 0)
			rc = take(trace, &line);
	}
	return rc;
}

int attnsim_trace_parse(struct attnsim_trace *trace, const char *name, const char *text, size_t size)
{
	size_t header = sizeof(AZURE_HEADER) - 1;
	int rc;

	*trace = (struct attnsim_trace){ .kind = "mooncake" };
	if (size >= header && memcmp(text, AZURE_HEADER, header) == 0 &&
		(size == header || text[header] == '\n' || text[header] == '\r')) {
		trace->kind = "azure";
		rc = parse_lines(trace, name, text, size, azure_line);
	} else if (size > 0 && text[0] == '{') {
		rc = parse_lines(trace, name, text, size, mooncake_line);
	} else {
		struct line first = { .name = name, .number = 1, .text = text };

		while (first.length < size && text[first.length] != '\n')
			first.length++;
		rc = refuse(&first, "neither Azure's header nor a JSON object");
	}
	if (rc == 0)
		rc = settle(trace, name);
	if (rc < 0)
		attnsim_trace_free(trace);
	return rc;
}

static int read_whole(int fd, const char *path, char **text, size_t *size)
{
	struct stat status;
	size_t got = 0;

	if (fstat(fd, &status) < 0)
		return base_fail(errno, "%s cannot be read: %s", path, strerror(errno));
	if (!S_ISREG(status.st_mode) || status.st_size > ATTNSIM_FILE_MAX)
		return base_fail(EINVAL, "%s is no file of at most 1 GiB", path);
	*text = malloc((size_t)status.st_size + 1);
	if (!*text)
		return base_fail(ENOMEM, "no memory to read %s", path);
	while (got < (size_t)status.st_size) {
		ssize_t bytes = read(fd, *text + got, (size_t)status.st_size - got);

		if (bytes < 0) {
			int error = errno;

			free(*text);
			return base_fail(error, "%s cannot be read: %s", path, strerror(error));
		}
		if (bytes == 0)
			break;
		got += (size_t)bytes;
	}
	*size = got;
	return 0;
}

int attnsim_trace_read(struct attnsim_trace *trace, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc;
	char *text = NULL;
	size_t size = 0;

	*trace = (struct attnsim_trace){ 0 };
	if (fd < 0)
		return base_fail(errno, "%s cannot be opened: %s", path, strerror(errno));
	rc = read_whole(fd, path, &text, &size);
	close(fd);
	if (rc < 0)
		return rc;
	rc = attnsim_trace_parse(trace, path, text, size);
	free(text);
	return rc;
}

void attnsim_trace_free(struct attnsim_trace *trace)
{
	free(trace->requests);
	free(trace->hashes);
	*trace = (struct attnsim_trace){ 0 };
}

/* ---- made up ---------------------------------------------------------------------------------- */

static double uniform(uint64_t *state)
{
	return ((double)(base_rand_next(state) >> 11) + 0.5) * 0x1p-53;
}

/* A length whose logarithm is normal (Box and Muller), as those of real traces roughly are. */
static uint32_t length(uint64_t *state, double median, double spread, double most)
{
	double normal = sqrt(-2.0 * log(uniform(state))) * cos(6.283185307179586 * uniform(state));
	double tokens = median * exp(spread * normal);

	return (uint32_t)(tokens < 1.0 ? 1.0 : tokens > most ? most : tokens);
}

int attnsim_trace_make(struct attnsim_trace *trace, size_t count, uint32_t crowd, uint64_t seed)
{
	uint64_t state = seed;
	double now_s = 0.0;

	*trace = (struct attnsim_trace){ .kind = crowd > 1 ? "bursts" : "poisson" };
	for (size_t i = 0; i < count; i++) {
		struct attnsim_request request = { .arrival_ns = (int64_t)(now_s * 1e9),
			.prompt = length(&state, 600.0, 1.0, 8192.0),
			.output = length(&state, 120.0, 0.8, 1024.0) };

		if (grow((void **)&trace->requests, &trace->room, sizeof(request), i + 1) < 0) {
			attnsim_trace_free(trace);
			return -ENOMEM;
		}
		trace->requests[trace->count++] = request;
		/* A crowd ends with one chance in its mean size. */
		if (uniform(&state) * crowd < 1.0)
			now_s -= log(uniform(&state)) * crowd;
	}
	return 0;
}

/* ---- either, by name --------------------------------------------------------------------------- */

int attnsim_trace_get(struct attnsim_trace *trace, const char *name, size_t requests, uint64_t seed)
{
	const bool crowds = strcmp(name, "bursts") == 0;
	int rc;

	if (crowds || strcmp(name, "poisson") == 0)
		return attnsim_trace_make(trace, requests ? requests : ATTNSIM_MADE, crowds ? ATTNSIM_CROWD : 1, seed);
	rc = attnsim_trace_read(trace, name);
	if (rc == 0 && requests && requests < trace->count)
		trace->count = requests;
	return rc;
}

/* ---- what is in it ---------------------------------------------------------------------------- */

double attnsim_trace_rate(const struct attnsim_trace *trace)
{
	int64_t span_ns = trace->count > 1 ? trace->requests[trace->count - 1].arrival_ns : 0;

	/* Requests at one moment have no rate: as if a second lay between them. */
	return span_ns > 0 ? (double)(trace->count - 1) * 1e9 / (double)span_ns : 1.0;
}

uint32_t attnsim_trace_longest(const struct attnsim_trace *trace)
{
	uint32_t longest = 0;

	for (size_t i = 0; i < trace->count; i++) {
		uint32_t tokens = trace->requests[i].prompt + trace->requests[i].output;

		longest = tokens > longest ? tokens : longest;
	}
	return longest;
}

static int by_value(const void *left, const void *right)
{
	const uint64_t *a = left, *b = right;

	return (*a > *b) - (*a < *b);
}

double attnsim_trace_reuse(const struct attnsim_trace *trace)
{
	uint64_t *sorted = malloc(trace->hash_count * sizeof(*sorted) + 1);
	size_t distinct = 0;

	if (!sorted || trace->hash_count == 0) {
		free(sorted);
		return 0.0;
	}
	memcpy(sorted, trace->hashes, trace->hash_count * sizeof(*sorted));
	qsort(sorted, trace->hash_count, sizeof(*sorted), by_value);
	for (size_t i = 0; i < trace->hash_count; i++)
		distinct += i == 0 || sorted[i] != sorted[i - 1];
	free(sorted);
	return 1.0 - (double)distinct / (double)trace->hash_count;
}
