'use strict';

const { COMMON_OPTIONS, usage } = require('./arguments.js');
const { EXIT_HELP } = require('./exit-codes.js');

/**
 * The help of a command.
 *
 * @param {import('./arguments.js').Command} command
 * @returns {string[]} lines
 */
function commandHelp(command) {
  const { summary, details, positionals } = command;
  const lines = [`Usage: ${usage(command)}`, '', sentence(summary)];
  if (details) lines.push('', ...details.trim().split('\n'));
  if (positionals.length > 0) {
    lines.push('', ...columns(positionals.map(({ name, help }) => [name, help])));
  }
  lines.push('', 'Options:', ...columns(optionRows({ ...command.options, ...COMMON_OPTIONS })));
  return [...lines, '', ...exitCodes()];
}

/** The help of all. */
function overview(commands) {
  return [
    'Usage: smartvpn COMMAND [options]',
    '',
    'A VPN in WebSocket over TLS.',
    '',
    ...columns(commands.map(({ name, summary }) => [name, summary])),
    '',
    '`smartvpn COMMAND --help` tells more. --json prints JSON, --version the version.',
    '',
    ...exitCodes(),
  ];
}

function exitCodes() {
  return ['Exit codes:', ...columns(EXIT_HELP)];
}

function optionRows(options) {
  return Object.entries(options).map(([name, { value, short, help }]) => {
    const long = value === undefined ? `--${name}` : `--${name} ${value}`;
    return [short ? `-${short}, ${long}` : long, help];
  });
}

function columns(rows) {
  const width = Math.max(...rows.map(([left]) => left.length));
  return rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`);
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

module.exports = { commandHelp, overview };
