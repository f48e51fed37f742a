'use strict';

const { VpnServer } = require('../server.js');

/** A new pair of keys, of the engine's making. */
async function generateKeypair() {
  const server = new VpnServer();
  try {
    await server.start();
    return await server.generateKeypair();
  } finally {
    await server.close();
  }
}

module.exports = { generateKeypair };
