'use strict';

const { parseArgs } = require('node:util');

const { UsageError } = require('./exit-codes.js');
const { nearest } = require('./text.js');

/**
 * What a command takes.
 *
 * @typedef {object} Command
 * @property {string} name one word, or two as `init server`
 * @property {string} summary half a sentence
 * @property {string} [details] paragraphs for its help
 * @property {Positional[]} positionals
 * @property {Record<string, Option>} options
 * @property {(context: import('./process.js').Context, args: Arguments) => Promise<number | void>} run
 *   resolves with an exit code other than 0
 *
 * @typedef {{ name: string, help: string, optional?: boolean, choices?: string[] }} Positional
 * @typedef {{ value?: string, help: string, short?: string, multiple?: boolean }} Option
 *   `value` is what the help calls its value; without it the option is a switch
 * @typedef {{ values: Record<string, any>, positionals: string[] }} Arguments
 */

/** What every command takes. */
const COMMON_OPTIONS = {
  json: { help: 'Print JSON' },
  help: { short: 'h', help: 'Show this help' },
};

/**
 * @param {Command} command
 * @param {string[]} argv
 * @returns {Arguments}
 * @throws {UsageError}
 */
function parseArguments(command, argv) {
  const options = { ...command.options, ...COMMON_OPTIONS };
  const config = {
    args: argv,
    allowPositionals: true,
    tokens: true,
    options: Object.fromEntries(
      Object.entries(options).map(([name, { value, short, multiple }]) => [
        name,
        {
          type: value === undefined ? 'boolean' : 'string',
          ...(short && { short }),
          ...(multiple && { multiple }),
        },
      ]),
    ),
  };
  refuseUnknown(command, parseArgs({ ...config, strict: false }).tokens, options);
  let parsed;
  try {
    parsed = parseArgs(config);
  } catch (error) {
    // What is left is a value too many or too few, and Node's sentence names the option.
    throw new UsageError(String(error.message).split('\n')[0]);
  }
  const { values, positionals } = parsed;
  if (!values.help) checkPositionals(command, positionals);
  return { values, positionals };
}

function refuseUnknown(command, tokens, options) {
  const shorts = new Set(Object.values(options).map(({ short }) => short));
  for (const { kind, name, rawName } of tokens) {
    if (kind !== 'option' || Object.hasOwn(options, name)) continue;
    if (!rawName.startsWith('--') && shorts.has(name)) continue;
    const near = nearest(name, Object.keys(options));
    const hint = near ? ` Did you mean --${near}?` : '';
    throw new UsageError(`\`${command.name}\` has no option ${rawName}.${hint}`);
  }
}

function checkPositionals(command, positionals) {
  const wanted = command.positionals;
  const missing = wanted.slice(positionals.length).find(({ optional }) => !optional);
  if (missing) throw new UsageError(`${missing.name} is missing: \`${usage(command)}\`.`);
  if (positionals.length > wanted.length) {
    throw new UsageError(`"${positionals[wanted.length]}" is too much: \`${usage(command)}\`.`);
  }
  for (const [index, text] of positionals.entries()) {
    const { name, choices } = wanted[index];
    if (!choices || choices.includes(text)) continue;
    const near = nearest(text, choices);
    throw new UsageError(`${name} cannot be "${text}".${near ? ` Did you mean ${near}?` : ''}`);
  }
}

/** `smartvpn limit ID RATE [BURST] [options]` */
function usage({ name, positionals }) {
  const words = positionals.map((positional) =>
    positional.optional ? `[${positional.name}]` : positional.name,
  );
  return ['smartvpn', name, ...words, '[options]'].join(' ');
}

module.exports = { COMMON_OPTIONS, parseArguments, usage };
