'use strict';

const { SERVER_SOCKET_OPTION, serverSocket, withDaemon } = require('../daemon.js');
const { clientTable } = require('../describe.js');

/** @type {import('../arguments.js').Command} */
module.exports = {
  name: 'clients',
  summary: 'lists the clients of the running server',
  positionals: [],
  options: { socket: SERVER_SOCKET_OPTION },

  async run({ stdout, now }, { values: { json, socket } }) {
    const clients = await withDaemon(serverSocket(socket), 'server', (vpn) => vpn.listClients());
    if (json) stdout.write(`${JSON.stringify(clients)}\n`);
    else
      stdout.write(
        `${clients.length > 0 ? clientTable(clients, now()).join('\n') : 'Nobody is connected.'}\n`,
      );
  },
};
