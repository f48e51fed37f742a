'use strict';

const { VpnError } = require('./error.js');
const { findAddon, target } = require('./platform.js');

let binding;

/**
 * The addon, loaded at its first use: a program that only wants the types, or talks to a daemon,
 * needs none.
 *
 * @returns {typeof import('../binding.d.ts')}
 * @throws {VpnError} `unsupported-platform`
 */
function loadNative() {
  binding ??= load(findAddon());
  return binding;
}

function load(file) {
  try {
    // oxlint-disable-next-line node/global-require -- only a use of the addon may load it
    return require(file);
  } catch (cause) {
    throw new VpnError(
      'unsupported-platform',
      `The addon for ${target()} does not load on this system: ${cause.message}. ` +
        'The README beside it says what it needs; if the file is damaged, install the package anew.',
      { cause },
    );
  }
}

/** Puts `replacement` in the addon's place: how the tests run without one. */
function replaceNative(replacement) {
  binding = replacement;
}

module.exports = { loadNative, replaceNative };
