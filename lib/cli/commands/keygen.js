'use strict';

const { VpnConfig } = require('../../config.js');
const { UsageError } = require('../exit-codes.js');
const { claimFile } = require('../new-file.js');
const { generateKeypair } = require('../keys.js');

/** @type {import('../arguments.js').Command} */
module.exports = {
  name: 'keygen',
  summary: 'makes a pair of keys',
  details: `
Writes the pair to FILE, which only you can read, and prints the public key. With --json
instead of FILE, prints both.
`,
  positionals: [{ name: 'FILE', help: 'where the pair goes, as JSON', optional: true }],
  options: { force: { help: 'Replace FILE if it is there' } },

  async run({ stdout }, { values: { json, force }, positionals: [file] }) {
    if (file === undefined && !json) {
      throw new UsageError(
        'Say where the private key goes: `smartvpn keygen FILE`, or `smartvpn keygen --json` to print it.',
      );
    }
    const pair = await generateKeypair();
    const { publicKey } = pair;
    if (file === undefined) {
      stdout.write(`${JSON.stringify(pair)}\n`);
      return;
    }
    await claimFile(file, force, () => VpnConfig.saveToFile(file, pair));
    stdout.write(json ? `${JSON.stringify({ publicKey, file })}\n` : `${publicKey}\n`);
  },
};
