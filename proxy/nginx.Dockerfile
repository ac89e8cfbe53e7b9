# nginx with notch's settings, the alternative to HAProxy. 1.27.3 or later: earlier ones cannot follow replicas by DNS.
ARG NGINX_IMAGE=nginx:1.30-alpine
FROM ${NGINX_IMAGE}
COPY nginx.conf error.html error.policy /etc/nginx/
COPY notch-nginx /usr/local/bin/notch-nginx
# By name: its number differs between the variants of this image.
# hadolint ignore=DL3066
USER nginx
EXPOSE 8080
# Serves what it has, then ends.
STOPSIGNAL SIGQUIT
# As in Dockerfile: whether the proxy itself responds.
HEALTHCHECK --interval=2s --timeout=4s --retries=5 \
    CMD ["wget", "-q", "-T", "3", "-O", "/dev/null", "http://127.0.0.1:8080/healthz"]
ENTRYPOINT ["notch-nginx"]
CMD []
