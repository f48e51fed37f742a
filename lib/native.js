'use strict';

const { VpnError } = require('./error.js');

let binding;

/**
 * The addon, loaded at its first use: a program that only wants the types, or talks to a daemon,
 * needs none.
 *
 * @returns {typeof import('../binding.js')}
 */
function loadNative() {
  if (binding) return binding;
  try {
    // oxlint-disable-next-line node/global-require -- only a use of the addon may load it
    binding = require('../binding.js');
  } catch (cause) {
    throw new VpnError(
      'unsupported-platform',
      `The smartvpn addon for ${process.platform}-${process.arch} could not be loaded. ` +
        'Linux on x64 with glibc is supported; in a checkout of the sources, `npm run build` makes the addon.',
      { cause },
    );
  }
  return binding;
}

/** Puts `replacement` in the addon's place: how the tests run without one. */
function replaceNative(replacement) {
  binding = replacement;
}

module.exports = { loadNative, replaceNative };
