'use strict';

const { version } = require('../../package.json');
const { VpnError } = require('../error.js');
const { parseArguments } = require('./arguments.js');
const { EXIT, Failure, UsageError } = require('./exit-codes.js');
const { commandHelp, overview } = require('./help.js');
const { nearest } = require('./text.js');

/** In the order in which the help shows them. */
const COMMANDS = [
  require('./commands/init-server.js'),
  require('./commands/init-client.js'),
  require('./commands/invite.js'),
  require('./commands/join.js'),
  require('./commands/keygen.js'),
  require('./commands/up.js'),
  require('./commands/doctor.js'),
  require('./commands/status.js'),
  require('./commands/clients.js'),
  require('./commands/kick.js'),
  require('./commands/limit.js'),
  require('./commands/install.js'),
];

/**
 * Runs a command line.
 *
 * @param {string[]} argv what comes after the program's name
 * @param {import('./process.js').Context} context
 * @returns {Promise<number>} the exit code
 */
async function main(argv, context) {
  try {
    return (await dispatch(argv, context)) ?? EXIT.done;
  } catch (error) {
    return report(error, context, argv.includes('--json'));
  }
}

async function dispatch(argv, context) {
  const print = (lines) => context.stdout.write(`${lines.join('\n')}\n`);
  const [first] = argv;
  if (first === undefined) {
    context.stderr.write(`${overview(COMMANDS).join('\n')}\n`);
    return EXIT.usage;
  }
  if (['--help', '-h', 'help'].includes(first)) return void print(overview(COMMANDS));
  if (['--version', '-v'].includes(first)) return void print([version]);
  const command = findCommand(argv);
  const args = parseArguments(command, argv.slice(command.name.split(' ').length));
  if (args.values.help) return void print(commandHelp(command));
  return command.run(context, args);
}

function findCommand(argv) {
  const found = COMMANDS.find(({ name }) => name.split(' ').every((word, index) => argv[index] === word));
  if (found) return found;
  const [first, second] = argv;
  if (first.startsWith('-')) throw new UsageError(`The command comes first, not ${first}.`);
  const family = COMMANDS.filter(({ name }) => name.split(' ')[0] === first);
  if (family.length > 0) {
    const choices = family.map(({ name }) => name.split(' ')[1]);
    const near = second === undefined ? undefined : nearest(second, choices);
    const hint = near ? ` Did you mean \`${first} ${near}\`?` : '';
    throw new UsageError(`\`${first}\` is followed by ${choices.join(' or ')}.${hint}`);
  }
  const near = nearest(first, [...new Set(COMMANDS.map(({ name }) => name.split(' ')[0]))]);
  throw new UsageError(`There is no command "${first}".${near ? ` Did you mean ${near}?` : ''}`);
}

/** Tells a failure in one line, and in JSON besides where that was asked for. */
function report(error, { stdout, stderr }, json) {
  const exitCode = exitCodeOf(error);
  const cause = error instanceof Failure ? error.cause : error;
  const { code, message } = describe(cause);
  const hint = cause instanceof UsageError ? ' `smartvpn --help` shows what there is.' : '';
  stderr.write(`smartvpn: ${code === 'usage' ? '' : `${code}: `}${oneLine(message)}${hint}\n`);
  if (json) {
    const { path } = cause;
    stdout.write(`${JSON.stringify({ error: { code, message, ...(path && { path }) } })}\n`);
  }
  return exitCode;
}

function exitCodeOf(error) {
  if (error instanceof Failure) return error.exitCode;
  return error instanceof UsageError ? EXIT.usage : EXIT.failed;
}

function describe(error) {
  if (error instanceof VpnError) return { code: error.code, message: error.message };
  if (error instanceof UsageError) return { code: 'usage', message: error.message };
  return { code: 'internal', message: `${error?.message ?? error}. Please report this.` };
}

function oneLine(text) {
  return String(text).replaceAll(/\s*\n\s*/g, ' ');
}

module.exports = { COMMANDS, main };
