/*
 * Reads SentencePiece models: a protobuf message whose fields are the pieces (text, score,
 * type) and the settings that matter here. One thread. The file is not trusted.
 *
 * Of protobuf's wire format it needs: varint (0), 64 bits (1), length and bytes (2), 32 bits
 * (5). Fields that mean nothing here are skipped.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/attnquant.h"

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

enum { /* field numbers of sentencepiece_model.proto */
	MODEL_PIECE = 1,
	MODEL_TRAINER = 2,
	MODEL_NORMALIZER = 3,
	PIECE_TEXT = 1,
	PIECE_SCORE = 2,
	PIECE_TYPE = 3,
	TRAINER_TYPE = 3,
	TRAINER_UNKNOWN = 40,
	TRAINER_BOS = 41,
	TRAINER_EOS = 42,
	TRAINER_PADDING = 43,
	NORMALIZER_DUMMY_PREFIX = 3
};

enum { TRAINER_UNIGRAM = 1, TRAINER_BPE = 2 }; /* UNIGRAM is the default of the format */

struct message {
	const unsigned char *at, *end;
};

struct field {
	uint32_t number;
	enum wire wire;
	uint64_t value;       /* VARINT, 32, 64 */
	struct message bytes; /* BYTES */
};

static int take_varint(struct message *message, uint64_t *value)
{
	*value = 0;
	for (unsigned shift = 0; shift < 64; shift += 7) {
		if (message->at == message->end)
			break;
		*value |= (uint64_t)(*message->at & 0x7f) << shift;
		if (!(*message->at++ & 0x80))
			return 0;
	}
	return base_fail(EBADMSG, "not a SentencePiece model: a number in it does not end");
}

static int take_fixed(struct message *message, size_t size_bytes, uint64_t *value)
{
	*value = 0;
	if ((size_t)(message->end - message->at) < size_bytes)
		return base_fail(EBADMSG, "the SentencePiece model ends inside a number");
	memcpy(value, message->at, size_bytes);
	message->at += size_bytes;
	return 0;
}

/* 1: a field, 0: the end. */
static int take_field(struct message *message, struct field *field)
{
	uint64_t key;
	int rc;

	if (message->at == message->end)
		return 0;
	rc = take_varint(message, &key);
	if (rc < 0)
		return rc;
	field->number = (uint32_t)(key >> 3);
	field->wire = (enum wire)(key & 7);
	switch (field->wire) {
	case WIRE_VARINT:
		rc = take_varint(message, &field->value);
		break;
	case WIRE_64:
		rc = take_fixed(message, 8, &field->value);
		break;
	case WIRE_32:
		rc = take_fixed(message, 4, &field->value);
		break;
	case WIRE_BYTES:
		rc = take_varint(message, &field->value);
		if (rc == 0 && field->value > (uint64_t)(message->end - message->at))
			rc = base_fail(EBADMSG,
				"the SentencePiece model claims a field of %" PRIu64
				" bytes where %td "
				"are left",
				field->value, message->end - message->at);
		if (rc < 0)
			break;
		field->bytes = (struct message){ message->at, message->at + field->value };
		message->at += field->value;
		break;
	default:
		rc = base_fail(EBADMSG, "not a SentencePiece model: field of the unknown kind %u",
			(unsigned)field->wire);
	}
	return rc < 0 ? rc : 1;
}

static int read_piece(struct attnquant_vocab *vocab, struct message piece)
{
	struct message text = { 0 };
	uint64_t type = TOKEN_NORMAL;
	uint32_t score_bits = 0;
	struct field field;
	float score;
	int rc;

	while ((rc = take_field(&piece, &field)) > 0) {
		if (field.number == PIECE_TEXT && field.wire == WIRE_BYTES)
			text = field.bytes;
		else if (field.number == PIECE_SCORE && field.wire == WIRE_32)
			score_bits = (uint32_t)field.value;
		else if (field.number == PIECE_TYPE && field.wire == WIRE_VARINT)
			type = field.value;
	}
	if (rc < 0)
		return rc;
	if (type < TOKEN_NORMAL || type > TOKEN_BYTE)
		return base_fail(EBADMSG, "piece %" PRIu32 " has the unknown type %" PRIu64,
			vocab->count, type);
	memcpy(&score, &score_bits, sizeof(score));
	rc = attnquant_vocab_grow(vocab, vocab->count + 1);
	if (rc < 0)
		return rc;
	return attnquant_vocab_set(vocab, vocab->count - 1, text.at ? (const char *)text.at : "",
		(size_t)(text.end - text.at), score, (enum attnquant_token_type)type);
}

/* Ids are int32 in a varint: a missing one is -1, written as 64 bits. */
static int read_trainer(struct attnquant_vocab *vocab, struct message trainer, uint64_t *kind)
{
	struct field field;
	int rc;

	while ((rc = take_field(&trainer, &field)) > 0) {
		int32_t id = (int32_t)field.value;

		if (field.wire != WIRE_VARINT)
			continue;
		if (field.number == TRAINER_TYPE)
			*kind = field.value;
		else if (field.number == TRAINER_UNKNOWN)
			vocab->unknown = id;
		else if (field.number == TRAINER_BOS)
			vocab->bos = id;
		else if (field.number == TRAINER_EOS)
			vocab->eos = id;
		else if (field.number == TRAINER_PADDING)
			vocab->padding = id;
	}
	return rc;
}

static int read_normalizer(struct attnquant_vocab *vocab, struct message normalizer)
{
	struct field field;
	int rc;

	while ((rc = take_field(&normalizer, &field)) > 0)
		if (field.number == NORMALIZER_DUMMY_PREFIX && field.wire == WIRE_VARINT)
			vocab->add_space_prefix = field.value != 0;
	return rc;
}

static int check_id(const struct attnquant_vocab *vocab, const char *what, int64_t id)
{
	if (id >= (int64_t)vocab->count)
		return base_fail(EBADMSG,
			"the id of the %s token is %" PRId64 " in a vocabulary of %" PRIu32, what,
			id, vocab->count);
	return 0;
}

int attnquant_sentencepiece_read(struct attnquant_vocab *vocab, const struct attnquant_file *file)
{
	struct message message = { file->bytes, file->bytes + file->size };
	uint64_t kind = TRAINER_UNIGRAM;
	struct field field;
	int rc;

	attnquant_vocab_init(vocab, "llama", "default");
	vocab->unknown = 0; /* the defaults of the format */
	vocab->bos = 1;
	vocab->eos = 2;
	vocab->add_bos = true;
	vocab->add_space_prefix = true;
	while ((rc = take_field(&message, &field)) > 0) {
		int part = 0;

		if (field.wire != WIRE_BYTES)
			continue;
		if (field.number == MODEL_PIECE)
			part = read_piece(vocab, field.bytes);
		else if (field.number == MODEL_TRAINER)
			part = read_trainer(vocab, field.bytes, &kind);
		else if (field.number == MODEL_NORMALIZER)
			part = read_normalizer(vocab, field.bytes);
		if (part < 0)
			return part;
	}
	if (rc == 0 && kind != TRAINER_BPE)
		rc = base_fail(ENOTSUP,
			"a SentencePiece model of kind %" PRIu64 "; those of kind 2 (BPE) are read",
			kind);
	if (rc == 0 && vocab->count == 0)
		rc = base_fail(EBADMSG, "a SentencePiece model without pieces");
	if (rc == 0)
		rc = check_id(vocab, "unknown", vocab->unknown);
	if (rc == 0)
		rc = check_id(vocab, "begin", vocab->bos);
	if (rc == 0)
		rc = check_id(vocab, "end", vocab->eos);
	return rc == 0 ? check_id(vocab, "padding", vocab->padding) : rc;
}
