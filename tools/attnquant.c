/*
 * attnquant: makes GGUF files. It converts llama2.c checkpoints and Hugging Face folders,
 * quantizes, shows what a file holds, makes models of random numbers (a tiny one for demonstrations
 * and tests, any shape to measure speed with), and measures what formats cost in quality.
 *
 * One thread, one command per run.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/attnquant.h"
#include "tools/tool_args.h"
#include "tools/tool_text.h"

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
};

static const struct command commands[] = {
	{ "convert", attnquant_convert_command },
	{ "quantize", attnquant_quantize_command },
	{ "info", attnquant_info_command },
	{ "make-tiny", attnquant_tiny_command },
	{ "make-random", attnquant_random_command },
	{ "measure", attnquant_measure_command },
};

enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static const char what[] =
	"Makes GGUF model files.\v"
	"Commands:\n"
	"  convert IN -o OUT.gguf          from llama2.c or Hugging Face to GGUF\n"
	"  quantize IN.gguf OUT.gguf TYPE  the same with weights of TYPE (Q8_0, Q4_1, ...)\n"
	"  info FILE.gguf                  what a file holds\n"
	"  make-tiny -o OUT.gguf           a tiny model of random numbers, for tests\n"
	"  make-random -o OUT.gguf         random weights in a known shape, to measure speed\n"
	"  measure attention|model         what formats cost in quality\n"
	"\n"
	"Each command explains itself: attnquant COMMAND --help";

static error_t parse(int key, char *value, struct argp_state *state)
{
	const struct command **command = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		for (size_t i = 0; i < COMMANDS; i++)
			if (strcmp(value, commands[i].name) == 0)
				*command = &commands[i];
		if (!*command)
			argp_error(state, "no command '%s'", value);
		state->next = state->argc; /* the rest is the command's */
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_usage(state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- convert ------------------------------------------------------------------------------------------- */

static const struct argp_option convert_options[] = {
	{ "output", 'o', "OUT.gguf", 0, "the file to write (required)", 0 },
	{ "tokenizer", 't', "FILE", 0,

		"tokenizer.bin of llama2.c or a SentencePiece .model (default: looked for beside IN)", 0 },
	{ "type", 'T', "TYPE", 0, "store matrices as TYPE (default: as they come)", 0 },
	{ "name", 'n', "TEXT", 0, "the model's name", 0 },
	{ 0 },
};

static error_t parse_convert(int key, char *value, struct argp_state *state)
{
	struct attnquant_convert *convert = state->input;

	switch (key) {
	case 'o':
		convert->out = value;
		return 0;
	case 't':
		convert->tokenizer = value;
		return 0;
	case 'T':
		convert->type = attnquant_type_argument(value);
		return 0;
	case 'n':
		convert->name = value;
		return 0;
	case ARGP_KEY_ARG:
		if (convert->in)
			argp_error(state, "one input at a time");
		convert->in = value;
		return 0;
	case ARGP_KEY_END:
		if (!convert->in || !convert->out)
			argp_error(state, "convert needs an input and -o OUT.gguf");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp convert_argp = {
	.options = convert_options,
	.parser = parse_convert,
	.args_doc = "IN",
	.doc = "Converts a llama2.c checkpoint (.bin) or a Hugging Face folder (config.json, *.safetensors, "
	       "tokenizer.json or tokenizer.model; Llama, Mistral, SmolLM2, Qwen2, Qwen3) to GGUF.",
};

int attnquant_convert_command(int argc, char **argv)
{
	struct attnquant_convert convert = { .type = KERN_TYPE_END };
	int rc;

	tool_args_parse(&convert_argp, argc, argv, &convert);
	rc = attnquant_is_folder(convert.in) ? attnquant_convert_hugging_face(&convert) :
					       attnquant_convert_llama2c(&convert);
	if (rc < 0)
		tool_die(TOOL_FAILED, "%s", base_error_message());
	return TOOL_OK;
}

int main(int argc, char **argv)
{
	static const struct argp argp = { .parser = parse, .args_doc = "COMMAND ...", .doc = what };
	const struct command *command = NULL;
	int first = 1;
	char *name;

	/* Options before the command are ours; from the command on they are the command's. */
	while (first < argc && argv[first][0] == '-')
		first++;
	tool_args_parse(&argp, first < argc ? first + 1 : first, argv, &command);
	name = argv[first];
	if (asprintf(&argv[first], "attnquant %s", name) < 0)
		tool_die(TOOL_FAILED, "out of memory");
	return command->run(argc - first, argv + first);
}
