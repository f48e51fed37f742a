'use strict';

const { SERVER_SOCKET_OPTION, serverSocket, withDaemon } = require('../daemon.js');
const { printable } = require('../text.js');

/** @type {import('../arguments.js').Command} */
module.exports = {
  name: 'kick',
  summary: 'ends the session of a client of the running server',
  positionals: [{ name: 'ID', help: "the client's, as `smartvpn clients` shows it" }],
  options: { socket: SERVER_SOCKET_OPTION },

  async run({ stdout }, { values: { json, socket }, positionals: [id] }) {
    await withDaemon(serverSocket(socket), 'server', (vpn) => vpn.disconnectClient(id));
    stdout.write(json ? `${JSON.stringify({ clientId: id })}\n` : `${printable(id)} is disconnected.\n`);
  },
};
