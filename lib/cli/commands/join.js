'use strict';

const { resolve } = require('node:path');

const { VpnClient } = require('../../client.js');
const { UsageError } = require('../exit-codes.js');
const { commandLine } = require('../shell.js');

/** More than the longest invite, in characters. */
const MAX_INPUT = 16 * 1024;

/** @type {import('../arguments.js').Command} */
module.exports = {
  name: 'join',
  summary: 'joins a server by an invite, and writes the configuration',
  details: `
Makes a key, registers it with the server, and writes the configuration with it to a new
file that only you can read. It needs no root. With - for URL, the URL is read from the
standard input, and so stands neither in the shell's history nor in the list of processes.
`,
  positionals: [{ name: 'URL', help: 'the invite, vpn://…; or -' }],
  options: {
    config: { value: 'FILE', help: 'The configuration to write (default: client.json)' },
    name: { value: 'LABEL', help: 'What the client calls itself (default: what the invite says)' },
  },

  async run({ stdin, stdout, stderr }, { values, positionals: [argument] }) {
    const file = values.config ?? 'client.json';
    if (file === '') throw new UsageError('--config needs a path.');
    const url = argument === '-' ? await readInvite(stdin, stderr) : argument;
    const { serverUrl } = await VpnClient.join(url, { configPath: file, name: values.name });

    const here = commandLine(['smartvpn', 'up', file], { root: true });
    if (values.json) {
      stdout.write(`${JSON.stringify({ file: resolve(file), serverUrl, next: { here } })}\n`);
      return;
    }
    stdout.write(
      `Joined ${serverUrl}. ${file} is written, with the key: keep it to yourself.\n\nConnect:\n  ${here}\n`,
    );
  },
};

/** The first line of the input. */
async function readInvite(stdin, stderr) {
  if (stdin.isTTY) stderr.write('The invite: ');
  let text = '';
  stdin.setEncoding('utf8');
  for await (const chunk of stdin) {
    text += chunk;
    if (text.includes('\n') || text.length > MAX_INPUT) break;
  }
  const [line] = text.trimStart().split('\n');
  if (line.trim() === '') throw new UsageError('There is no invite on the standard input.');
  return line.trim();
}
