'use strict';

exports.VpnClient = require('./lib/client.js').VpnClient;
exports.VpnConfig = require('./lib/config.js').VpnConfig;
exports.VpnError = require('./lib/error.js').VpnError;
exports.VpnInstaller = require('./lib/installer.js').VpnInstaller;
exports.VpnServer = require('./lib/server.js').VpnServer;
