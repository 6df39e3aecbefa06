#!/bin/bash
# One image, several roles, chosen by MODE, as the real one does: its weaknesses are copied too, because a deployer has to live with them.
set -e

DEFAULT_QUEUES=dataset,priority_dataset,pipeline,priority_pipeline,mail,ops_trace,app_deletion,plugin,workflow_storage,conversation,workflow,schedule_poller,schedule_executor,triggered_workflow_dispatcher,trigger_refresh_executor,retention

migrate() {
    echo "Running migrations"
    flask upgrade-db
    if [[ $MODE == migration ]]; then
        # Said and exited with 0 also when the migration failed.
        echo "Migration completed, exiting normally"
        exit 0
    fi
}

serve() {
    exec gunicorn app:app \
        --bind "${DIFY_BIND_ADDRESS:-0.0.0.0}:${DIFY_PORT:-5001}" \
        --workers "${SERVER_WORKER_AMOUNT:-1}" --worker-class gthread --threads 16 \
        --timeout "${GUNICORN_TIMEOUT:-200}" --access-logfile - --error-logfile -
}

echo "stand-in for langgenius/dify-api $STAND_IN_VERSION: MODE=$MODE" >&2
[[ ${MIGRATION_ENABLED:-} == true ]] && migrate

case $MODE in
worker)
    exec celery -A celery_entrypoint.celery worker --pool threads --concurrency "${CELERY_WORKER_AMOUNT:-2}" \
        --loglevel "${LOG_LEVEL:-INFO}" --queues "${CELERY_QUEUES:-$DEFAULT_QUEUES}" --without-gossip --without-mingle
    ;;
beat)
    exec celery -A celery_entrypoint.celery beat --loglevel "${LOG_LEVEL:-INFO}"
    ;;
job)
    exec flask "$@"
    ;;
*)
    serve
    ;;
esac
