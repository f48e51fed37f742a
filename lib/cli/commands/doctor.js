'use strict';

const { loadConfig, validateConfig } = require('../config-file.js');
const { checkClient } = require('../doctor/client.js');
const { Host } = require('../doctor/host.js');
const { checkHost, checkPackage } = require('../doctor/host-checks.js');
const { check } = require('../doctor/result.js');
const { checkServer } = require('../doctor/server.js');
const { EXIT } = require('../exit-codes.js');
const { printable } = require('../text.js');

const NAME_WIDTH = 15;
const COLOURS = { ok: '32', warn: '33', fail: '31' };

/** @type {import('../arguments.js').Command} */
module.exports = {
  name: 'doctor',
  summary: 'tells what is missing on this host, and the command that mends it',
  details: `
With a configuration it looks at what that needs, too: a server's port and certificate, a
client's way to its server. It changes nothing. Warnings are no failure.
`,
  positionals: [{ name: 'FILE', help: 'a configuration', optional: true }],
  options: {},

  async run(context, { values: { json }, positionals: [file] }) {
    const host = new Host(context);
    const results = [];
    const tell = (more) => {
      results.push(...more);
      if (!json) context.stdout.write(more.map((result) => lines(result, context)).join(''));
    };
    const found = await checkPackage();
    tell(found);
    const addonWorks = found.every(({ name, state }) => name !== 'addon' || state !== 'fail');
    const loaded = file === undefined || !addonWorks ? undefined : await readConfig(file, tell);
    tell(await checkHost(host, loaded));
    if (loaded?.mode === 'server') tell(await checkServer(host, loaded.config));
    if (loaded?.mode === 'client') tell(await checkClient(host, loaded.config));

    const failed = results.filter(({ state }) => state === 'fail').length;
    const warned = results.filter(({ state }) => state === 'warn').length;
    if (json) context.stdout.write(`${JSON.stringify({ ok: failed === 0, checks: results })}\n`);
    else context.stdout.write(`\n${conclusion(failed, warned)}\n`);
    return failed === 0 ? EXIT.done : EXIT.failed;
  },
};

/** The configuration if it is valid; what is wrong with it is told. */
async function readConfig(file, tell) {
  try {
    const { mode, config } = await loadConfig(file);
    validateConfig(mode, config);
    tell([check('configuration').ok(`${file} is a valid ${mode} configuration`)]);
    return { mode, config };
  } catch (error) {
    const where = error.path ? `${error.path}: ` : '';
    const message = error.message.startsWith(error.path) ? error.message : `${where}${error.message}`;
    tell([check('configuration').fail(message, `edit ${file}`)]);
    return undefined;
  }
}

function lines({ name, state, message, fix }, { stdout, env }) {
  const coloured = stdout.isTTY && !env.NO_COLOR;
  const mark = coloured ? `\u001b[${COLOURS[state]}m${state.padEnd(4)}\u001b[0m` : state.padEnd(4);
  const text = `${mark}  ${name.padEnd(NAME_WIDTH)}${printable(message)}\n`;
  return fix === undefined ? text : `${text}${' '.repeat(6 + NAME_WIDTH)}→ ${printable(fix)}\n`;
}

function conclusion(failed, warned) {
  const count = (number, word) => `${number} ${word}${number === 1 ? '' : 's'}`;
  if (failed > 0) return `${count(failed, 'failure')}, ${count(warned, 'warning')}.`;
  return warned > 0 ? `Nothing failed; ${count(warned, 'warning')}.` : 'All is well.';
}
