'use strict';

const { copyObject, requireInteger, requireOptions, requireString } = require('./arguments.js');
const { SERVER_CALLBACKS } = require('./config.js');
const { Controller, kAnnounce, kConfigure, kDiscard, kOpen, kRequest } = require('./controller.js');

const EVENTS = [
  'client-connected',
  'client-disconnected',
  'client-resumed',
  'warning',
  'status',
  'log',
  'lost',
  'reconnected',
];

/** A VPN server: serves any number of clients on one port. */
class VpnServer extends Controller {
  constructor(options) {
    super('server', EVENTS, options, SERVER_CALLBACKS);
  }

  async start(config) {
    const settings = this[kConfigure](config);
    await this[kOpen]();
    if (settings !== undefined) {
      try {
        await this[kRequest]('start', settings);
      } catch (error) {
        await this[kDiscard]();
        throw error;
      }
    }
    this[kAnnounce]();
  }

  async stopServer() {
    await this[kRequest]('stopServer');
  }

  getStatus() {
    return this[kRequest]('getStatus');
  }

  getStatistics() {
    return this[kRequest]('getStatistics');
  }

  listClients() {
    return this[kRequest]('listClients');
  }

  async disconnectClient(id) {
    requireString(id, 'id');
    await this[kRequest]('disconnectClient', { id });
  }

  generateKeypair() {
    return this[kRequest]('generateKeypair');
  }

  async setClientRateLimit(id, rateBytesPerSec, burstBytes) {
    requireString(id, 'id');
    requireInteger(rateBytesPerSec, 'rateBytesPerSec', 1);
    requireInteger(burstBytes, 'burstBytes', 1);
    await this[kRequest]('setClientRateLimit', { id, rateBytesPerSec, burstBytes });
  }

  async removeClientRateLimit(id) {
    requireString(id, 'id');
    await this[kRequest]('removeClientRateLimit', { id });
  }

  async getClientTelemetry(id) {
    requireString(id, 'id');
    return this[kRequest]('getClientTelemetry', { id });
  }

  async addClient(client) {
    return this[kRequest]('addClient', copyObject(client, 'client'));
  }

  async updateClient(id, changes) {
    requireString(id, 'id');
    return this[kRequest]('updateClient', { id, changes: copyObject(changes, 'changes') });
  }

  async removeClient(id) {
    requireString(id, 'id');
    await this[kRequest]('removeClient', { id });
  }

  listRegisteredClients() {
    return this[kRequest]('listRegisteredClients');
  }

  async createInvite(options = {}) {
    requireOptions(options, 'options', ['name', 'expiresInSecs', 'uses', 'serverUrl']);
    return this[kRequest]('createInvite', copyObject(options, 'options'));
  }
}

module.exports = { VpnServer };
