/*
 * What the parts of attnquant share: files as bytes, vocabularies, the list of tensors to
 * write, progress.
 *
 * One thread. Functions return 0 or a negative errno with a message; main prints it.
 */
#ifndef ATTNQUANT_H
#define ATTNQUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kern_type.h"
#include "model/model_gguf_write.h"

/* ---- files ---------------------------------------------------------------------------------- */

struct attnquant_file {
	const unsigned char *bytes;
	size_t size;
};

/* Maps a whole file for reading. A file of no bytes is refused. */
int attnquant_file_open(struct attnquant_file *file, const char *path);
void attnquant_file_close(struct attnquant_file *file);
bool attnquant_is_folder(const char *path);
bool attnquant_exists(const char *path);
/* A new string "folder/name"; out of memory ends the program. */
char *attnquant_join(const char *folder, const char *name);

/* ---- progress ------------------------------------------------------------------------------- */

/* A bar on standard error where that is a terminal; nothing elsewhere. */
struct attnquant_progress {
	const char *what;
	uint64_t total;
	int shown_percent;
};

void attnquant_progress_begin(
	struct attnquant_progress *progress, const char *what, uint64_t total);
void attnquant_progress_at(struct attnquant_progress *progress, uint64_t done);
/* Clears the bar. */
void attnquant_progress_end(struct attnquant_progress *progress);

/* ---- vocabularies --------------------------------------------------------------------------- */

enum attnquant_token_type { /* tokenizer.ggml.token_type */
	TOKEN_NORMAL = 1,
	TOKEN_UNKNOWN,
	TOKEN_CONTROL,
	TOKEN_USER_DEFINED,
	TOKEN_UNUSED,
	TOKEN_BYTE
};

struct attnquant_token {
	char *bytes;
	size_t len;
	float score;
	int32_t type;
};

/* A tokenizer as GGUF describes it. Zeroed it is empty; bos and the other ids are -1 where there
 * is none. */
struct attnquant_vocab {
	const char
		*model; /* "llama" (SentencePiece) or "gpt2" (byte-level BPE); NULL: no tokenizer */
	const char *pre; /* the pre-tokenizer's name */
	uint32_t count;
	struct attnquant_token *tokens;
	uint64_t merge_count;
	char **merges; /* "left right" */
	int64_t bos, eos, unknown, padding;
	bool add_bos, add_eos, add_space_prefix;
	char *chat_template;
};

void attnquant_vocab_init(struct attnquant_vocab *vocab, const char *model, const char *pre);
void attnquant_vocab_free(struct attnquant_vocab *vocab);
/* Makes room for `count` tokens in all; new ones are unused, named "[UNUSED_n]". */
int attnquant_vocab_grow(struct attnquant_vocab *vocab, uint32_t count);
int attnquant_vocab_set(struct attnquant_vocab *vocab, uint32_t id, const char *bytes, size_t len,
	float score, enum attnquant_token_type type);
void attnquant_vocab_put(const struct attnquant_vocab *vocab, struct model_gguf_writer *writer);

/* A llama2.c tokenizer.bin or a SentencePiece .model, told apart by content. */
int attnquant_vocab_read(struct attnquant_vocab *vocab, const char *path);
int attnquant_sentencepiece_read(struct attnquant_vocab *vocab, const struct attnquant_file *file);
/* A Hugging Face tokenizer.json of byte-level BPE. */
int attnquant_bpe_read(struct attnquant_vocab *vocab, const char *path);

/* ---- tensors -------------------------------------------------------------------------------- */

/* A tensor to be written, from memory that stays until then. */
struct attnquant_tensor {
	char name[64];
	uint32_t dims;
	uint64_t dim[MODEL_GGUF_DIMS_MAX];
	enum kern_type from;
	enum kern_type to; /* KERN_TYPE_END: as `from` */
	const void *data;
	uint32_t
		pairs_of_heads; /* 0, or: rows come as halves of so many heads and leave as pairs */
};

struct attnquant_tensors {
	struct attnquant_tensor *list;
	uint32_t count, room;
};

/* A new, zeroed entry at the end; out of memory ends the program. */
struct attnquant_tensor *attnquant_tensors_add(struct attnquant_tensors *tensors);
void attnquant_tensors_free(struct attnquant_tensors *tensors);
/* Chooses `to` for each: vectors stay float32; embeddings and output do not go below 6 bits;
 * rows that are no whole blocks become Q8_0, or F16. type KERN_TYPE_END: vectors F32, the rest
 * as it is. */
void attnquant_tensors_choose(struct attnquant_tensors *tensors, enum kern_type type);
/* Describes them to the writer (before begin). */
void attnquant_tensors_put(
	const struct attnquant_tensors *tensors, struct model_gguf_writer *writer);
/* Converts and writes their data (after begin), with progress. *error: the relative root mean
 * square error of what was quantized, 0 where nothing was. */
int attnquant_tensors_write(
	const struct attnquant_tensors *tensors, struct model_gguf_writer *writer, double *error);

/* general.file_type for a type. */
uint32_t attnquant_file_type(enum kern_type type);
/* By name, for the command line: ends the program with the list of names when it is none that
 * can be written. */
enum kern_type attnquant_type_argument(const char *name);

/* begin, data, finish. *error as above. */
int attnquant_save(
	struct model_gguf_writer *writer, const struct attnquant_tensors *tensors, double *error);
/* The same; says what was written. */
int attnquant_finish(struct model_gguf_writer *writer, const struct attnquant_tensors *tensors,
	const char *path);

/* A GGUF file once more with its matrices as `type`; says so when asked to. */
int attnquant_requantize(const char *in, const char *out, enum kern_type type, bool say);

/* ---- converters: read `in`, add keys and tensors to the writer, write ----------------------- */

struct attnquant_convert {
	const char *in, *out, *tokenizer; /* tokenizer: NULL, or where it lies */
	const char *name;                 /* general.name, or NULL */
	enum kern_type type;              /* KERN_TYPE_END: as it comes */
};

int attnquant_convert_llama2c(const struct attnquant_convert *convert);
int attnquant_convert_hugging_face(const struct attnquant_convert *convert);

/* ---- commands: argv[0] is the command; each returns an exit code ---------------------------- */

int attnquant_convert_command(int argc, char **argv);
int attnquant_quantize_command(int argc, char **argv);
int attnquant_info_command(int argc, char **argv);
int attnquant_tiny_command(int argc, char **argv);
int attnquant_random_command(int argc, char **argv);
int attnquant_measure_command(int argc, char **argv);

#endif
