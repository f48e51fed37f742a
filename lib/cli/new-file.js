'use strict';

const { open, rm } = require('node:fs/promises');

const { VpnError } = require('../error.js');

/**
 * Takes the name of a file that is not there yet, then has it written: of two at the same time, one
 * is refused.
 *
 * @param {string} file
 * @param {boolean} [force] whether a file that is there may be replaced
 * @param {() => Promise<void>} write replaces the file
 * @throws {VpnError} `file-error`
 */
async function claimFile(file, force, write) {
  const claimed = await claim(file, force);
  try {
    await write();
  } catch (error) {
    if (claimed) await rm(file, { force: true });
    throw error;
  }
}

async function claim(file, force) {
  try {
    await (await open(file, 'wx', 0o600)).close();
    return true;
  } catch (cause) {
    if (cause.code !== 'EEXIST') {
      throw new VpnError('file-error', `${file} could not be written: ${cause.message}.`, { cause });
    }
    if (force) return false;
    throw new VpnError(
      'file-error',
      `${file} is there already. Choose another, or replace it with --force.`,
      {
        cause,
      },
    );
  }
}

module.exports = { claimFile };
