// A CommonJS program sees the same: compiled by types.test.js, never run.

import smartvpn = require('smartvpn');

const client: smartvpn.VpnClient = new smartvpn.VpnClient();
client.on('exit', ({ code }) => code);
export const code: smartvpn.TVpnErrorCode = 'invalid-config';
