#!/usr/bin/env bash
# Makes what docker-compose.yml mounts, below deploy/compose: random passwords, the users' credentials files, the
# configurations of Kafka and ClickHouse, and the folders that host and containers share. Run once, as the user as whom
# the containers shall run; passwords that exist stay.
set -euo pipefail
umask 077
cd "$(dirname "$0")"
here=$PWD
root=$(cd ../.. && pwd)
# A service sees its own folder of secrets/vault/services, which vault-apply fills, and no other's.
mkdir -p secrets/kafka secrets/host secrets/vault/services/{vault-broker,agent-runner} data/artifacts data/roles data/scenarios
users=(admin spawner agent-runner observability monitor vault-broker vault-audit operator dlq-operator)

random() { head -c 24 /dev/urandom | base64 | tr -d '/+='; }
password() { sed -E 's/.*"password": "([^"]*)".*/\1/' "secrets/$1.json"; }
credentials() { # bootstrap servers, user, password
    printf '{"bootstrap_servers": "%s", "username": "%s", "password": "%s"}\n' "$1" "$2" "$3"
}

for user in "${users[@]}"; do
    [ -e "secrets/$user.json" ] || credentials kafka:9092 "$user" "$(random)" > "secrets/$user.json"
done
for name in clickhouse_password clickhouse_reader_password; do
    [ -e "secrets/$name" ] || random > "secrets/$name"
done
[ -e secrets/model_api_key ] || : > secrets/model_api_key
# 16 bytes; not with '-' in front, which Kafka's parser would take for an option.
[ -e secrets/kafka/cluster-id ] \
    || { printf K; head -c 15 /dev/urandom; } | base64 | tr '/+' '_-' | tr -d '=\n' > secrets/kafka/cluster-id

# The same users, for clients on this host.
for user in admin operator dlq-operator; do
    credentials 127.0.0.1:19092 "$user" "$(password "$user")" > "secrets/host/$user.json"
done

: > secrets/kafka/users
for user in "${users[@]}"; do
    echo "SCRAM-SHA-512=[name=$user,password=$(password "$user")]" >> secrets/kafka/users
done
admin=$(password admin)
cat > secrets/kafka/server.properties <<END
process.roles=broker,controller
node.id=1
# CLIENT is for the services, HOST for this machine: a client is sent to the address under which it can reach the broker.
listeners=CLIENT://0.0.0.0:9092,HOST://0.0.0.0:19092,CONTROLLER://127.0.0.1:9093
advertised.listeners=CLIENT://kafka:9092,HOST://127.0.0.1:19092
listener.security.protocol.map=CLIENT:SASL_PLAINTEXT,HOST:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENT
controller.quorum.bootstrap.servers=127.0.0.1:9093
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
sasl.mechanism.controller.protocol=PLAIN
listener.name.client.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="admin" password="$admin";
listener.name.host.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.controller.sasl.enabled.mechanisms=PLAIN
listener.name.controller.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="admin" password="$admin" user_admin="$admin";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin
allow.everyone.if.no.acl.found=false
auto.create.topics.enable=false
log.dirs=/var/lib/kafka/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
END
cat > secrets/kafka/start.sh <<'END'
#!/usr/bin/env bash
# In the Kafka container: format once, with the users; then run.
set -euo pipefail
config=/mnt/shared/config
if [ ! -e /var/lib/kafka/data/meta.properties ]; then
    users=()
    while read -r user; do users+=(--add-scram "$user"); done < "$config/users"
    /opt/kafka/bin/kafka-storage.sh format --config "$config/server.properties" \
        --cluster-id "$(cat "$config/cluster-id")" --standalone "${users[@]}"
fi
exec /opt/kafka/bin/kafka-server-start.sh "$config/server.properties"
END

# ClickHouse's users: one who writes (the store), one who only reads (the api, people), and nobody else from outside. The
# server reads it as a user of its own, so it is open; it holds hashes of long random passwords, in a private folder.
digest() { tr -d '\n' < "secrets/$1" | sha256sum | cut -d' ' -f1; }
cat > secrets/clickhouse_users.xml <<END
<clickhouse>
  <profiles>
    <reader>
      <readonly>1</readonly>
      <max_execution_time>30</max_execution_time>
      <max_memory_usage>1073741824</max_memory_usage>
      <max_result_bytes>134217728</max_result_bytes>
    </reader>
  </profiles>
  <users>
    <default>
      <networks replace="replace"><ip>127.0.0.1</ip><ip>::1</ip></networks>
    </default>
    <sluice>
      <password_sha256_hex>$(digest clickhouse_password)</password_sha256_hex>
      <networks><ip>::/0</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
    </sluice>
    <reader>
      <password_sha256_hex>$(digest clickhouse_reader_password)</password_sha256_hex>
      <networks><ip>::/0</ip></networks>
      <profile>reader</profile>
      <quota>default</quota>
      <grants>
        <query>GRANT SELECT, SHOW ON sluice.*</query>
        <query>GRANT SELECT ON system.settings</query>
      </grants>
    </reader>
  </users>
</clickhouse>
END
chmod 0644 secrets/clickhouse_users.xml

# What answers in place of a model, until a key is given.
[ -e data/scenarios/incident.yaml ] || cp "$root/examples/incident/scenario.yaml" data/scenarios/incident.yaml

# Read by Docker Compose: the containers run as the one user who may read all this.
grep -qs '^SLUICE_UID=' "$root/.env" || echo "SLUICE_UID=$(id -u)" >> "$root/.env"
# Read by people: where the installation is, for the command sluice on this host.
cat > data/client.env <<END
set -a
. "$root/.env"
SLUICE_MODEL_PROVIDER=\${SLUICE_MODEL_PROVIDER:-scripted}
SLUICE_URL=http://127.0.0.1:8080
SLUICE_SQL_URL=http://reader@127.0.0.1:8123/sluice
SLUICE_SQL_PASSWORD_FILE="$here/secrets/clickhouse_reader_password"
SLUICE_ARTIFACTS_URL="file://$here/data/artifacts"
SLUICE_CREDENTIALS_DIRECTORY="$here/secrets/host"
set +a
END
echo "made what docker-compose.yml mounts, below $here"
