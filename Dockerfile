# The HTTP service with an exported model, without torch and OpenMMLab. This image is not built by the tests.
#
#   docker build -t mmbirefnet .
#   docker run --rm -p 8000:8000 -v "$PWD/model.onnx:/model.onnx:ro" mmbirefnet
FROM python:3.11-slim AS build
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/mmbirefnet-*.whl)[deploy,server]" && rm -r /wheels && useradd --create-home app
USER app
EXPOSE 8000
CMD ["mmbirefnet", "serve", "--checkpoint", "/model.onnx", "--host", "0.0.0.0", "--port", "8000"]
