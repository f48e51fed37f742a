'use strict';

const { VpnError } = require('./error.js');

/** The answer of a method that has its name already, and comes with a later version. */
async function rejectUnsupported(method) {
  throw new VpnError('unsupported-method', `${method} comes with a later version.`);
}

module.exports = { rejectUnsupported };
