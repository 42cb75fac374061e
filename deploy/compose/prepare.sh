#!/usr/bin/env bash
# Makes what docker-compose.yml mounts: random passwords, the users' credentials files, Kafka's configuration.
# Run once; it changes nothing that exists. Put a model's key into secrets/model_api_key.
set -euo pipefail
umask 077
cd "$(dirname "$0")"
mkdir -p secrets/kafka
cd secrets

random() { head -c 24 /dev/urandom | base64 | tr -d '/+=' ; }

for user in admin spawner agent-runner observability operator dlq-operator; do
    [ -e "$user.json" ] || printf '{"bootstrap_servers": "kafka:9092", "username": "%s", "password": "%s"}\n' \
        "$user" "$(random)" > "$user.json"
done
[ -e clickhouse_password ] || random > clickhouse_password
[ -e model_api_key ] || : > model_api_key
[ -e kafka/cluster-id ] || head -c 16 /dev/urandom | base64 | tr '/+' '_-' | tr -d '=' > kafka/cluster-id

password() { sed -E 's/.*"password": "([^"]*)".*/\1/' "$1.json"; }

: > kafka/users
for user in admin spawner agent-runner observability operator dlq-operator; do
    echo "SCRAM-SHA-512=[name=$user,password=$(password "$user")]" >> kafka/users
done
admin=$(password admin)
cat > kafka/server.properties <<EOF
process.roles=broker,controller
node.id=1
listeners=CLIENT://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093
advertised.listeners=CLIENT://kafka:9092
listener.security.protocol.map=CLIENT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENT
controller.quorum.bootstrap.servers=127.0.0.1:9093
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
sasl.mechanism.controller.protocol=PLAIN
listener.name.client.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="admin" password="$admin";
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
EOF
cat > kafka/start.sh <<'EOF'
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
EOF
echo "SLUICE_UID=$(id -u)" > ../../../.env # the containers run as the one user who may read all this
echo "made $(pwd)"
