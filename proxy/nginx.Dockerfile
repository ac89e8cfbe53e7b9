# nginx with the configuration for notch, the alternative to HAProxy. Versions before 1.27.3 cannot resolve replicas.
ARG NGINX_IMAGE=nginx:1.30-alpine
FROM ${NGINX_IMAGE}
COPY nginx.conf error.html error.policy /etc/nginx/
COPY notch-nginx /usr/local/bin/notch-nginx
# By name, because its number differs between the variants of this image.
# hadolint ignore=DL3066
USER nginx
EXPOSE 8080
# Completes open requests, then ends.
STOPSIGNAL SIGQUIT
# Tests only the proxy itself, as in Dockerfile.
HEALTHCHECK --interval=2s --timeout=4s --retries=5 \
    CMD ["wget", "-q", "-T", "3", "-O", "/dev/null", "http://127.0.0.1:8080/healthz"]
ENTRYPOINT ["notch-nginx"]
CMD []
